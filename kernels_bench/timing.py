"""The time of a launch: warm-up, batches long enough to be timed, samples until they agree."""

import gc
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

from kernels_bench.marks import launch_bound, marks_of
from kernels_bench.providers.base import Launch, Provider, Sample
from kernels_bench.stopping import Rule, Stop, decide, interval_of, median

LEAST_BATCH_NS = 1_000_000  # what reading the clock, and the gap before a device's first launch, are a thousandth of
MOST_LAUNCHES = 512
WARM_NS = 50_000_000
WARM_LAUNCHES = 3
MOST_WARM_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one mode in the order they were taken, and how they ended."""

    samples: tuple[Sample, ...]
    stop: Stop
    marks: tuple[str, ...]

    @property
    def times_ns(self) -> list[float]:
        """Nanoseconds a launch of each sample: of the device where it has events, else of the clock."""
        return [time_of(sample) for sample in self.samples]

    @property
    def median_ns(self) -> float:
        """The middle of them."""
        return median(self.times_ns)

    @property
    def interval_ns(self) -> tuple[float, float] | None:
        """A 95 % interval of the median; None for fewer than six samples."""
        return interval_of(self.times_ns)

    @property
    def launch_ns(self) -> float:
        """Median host time to start a launch; on a device without a queue that is the launch itself."""
        return median([sample.launch_ns / sample.launches for sample in self.samples])


def time_of(sample: Sample) -> float:
    """Nanoseconds a launch: of the device where it has events, else of the clock, synchronisation included."""
    whole_ns = sample.wall_ns if sample.device_ns is None else sample.device_ns
    return whole_ns / sample.launches


def sample(provider: Provider, launches: Sequence[Launch], rule: Rule) -> Series:
    """Run the launches in turn, over and over, until the rule is content.

    One launch given: the same data each time, hot. Many: each on data of its own, cold where together they exceed
    the last-level cache. What warms up is run and thrown away.
    """
    turns = itertools.cycle(launches)
    with _no_collection():
        count = _warm_up(provider, turns, len(launches))
        samples, stop = _collect(provider, turns, count, rule)
    values = [time_of(batch) for batch in samples]
    marks = marks_of(values, stop, rule)
    if any(batch.device_ns is not None for batch in samples):
        device_ns = median(values)
        marks += (
            ["launch-bound"] if launch_bound(median([o.launch_ns / o.launches for o in samples]), device_ns) else []
        )
    return Series(tuple(samples), stop, tuple(marks))


def _collect(provider: Provider, turns: Iterator[Launch], count: int, rule: Rule) -> tuple[list[Sample], Stop]:
    samples: list[Sample] = []
    values: list[float] = []
    began_ns = perf_counter_ns()
    while (stop := decide(values, (perf_counter_ns() - began_ns) / 1e9, rule)) is None:
        samples.append(provider.time(list(itertools.islice(turns, count))))
        values.append(time_of(samples[-1]))
    return samples, stop


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector from running inside a sample; torch's own timer does so, too."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _warm_up(provider: Provider, turns: Iterator[Launch], steps: int) -> int:
    """Run each launch at least once, for some time; how many launches make a batch that can be timed."""
    shortest = batch = provider.time([next(turns)])
    done, spent_ns = 1, batch.wall_ns
    while (done < max(WARM_LAUNCHES, steps) or spent_ns < WARM_NS) and spent_ns < MOST_WARM_NS:
        batch = provider.time([next(turns)])
        done, spent_ns = done + 1, spent_ns + batch.wall_ns
        shortest = min(shortest, batch, key=time_of)
    return batch_size(shortest)  # not the last one: interrupted once, it would have all batches too short


def batch_size(sample: Sample) -> int:
    """Launches that fill the least batch, judged by one that was timed alone."""
    return min(MOST_LAUNCHES, max(1, math.ceil(LEAST_BATCH_NS / max(1.0, time_of(sample)))))
