"""How long does a launch take? Warm-up, batches long enough to be timed, samples until they agree."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

from kernels_bench.marks import launch_bound, marks_of
from kernels_bench.providers.base import Launch, Provider, Sample
from kernels_bench.stopping import Rule, Stop, decide, median, median_interval

LEAST_BATCH_NS = 200_000  # clock and events resolve a microsecond at worst: half a percent of it
LEAST_EVENT_BATCH_NS = 1_000_000  # on a device, also the gap before its first launch is in the batch
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
        return [time_of(one) for one in self.samples]

    @property
    def median_ns(self) -> float:
        """The middle of them."""
        return median(self.times_ns)

    @property
    def interval_ns(self) -> tuple[float, float] | None:
        """A 95 % interval of the median; None for fewer than six samples."""
        return median_interval(self.times_ns)

    @property
    def launch_ns(self) -> float:
        """Median host time to start a launch; on a device without a queue that is the launch itself."""
        return median([one.launch_ns / one.launches for one in self.samples])


def time_of(one: Sample) -> float:
    """Nanoseconds a launch: of the device where it has events, else of the clock, synchronisation included."""
    whole_ns = one.wall_ns if one.device_ns is None else one.device_ns
    return whole_ns / one.launches


def sample(provider: Provider, launches: Sequence[Launch], rule: Rule) -> Series:
    """Run the launches in turn, over and over, until the rule is content.

    One launch given: the same data each time, hot. Many: each on data of its own, cold where together they exceed
    the last-level cache. What warms up is run and thrown away.
    """
    turns = itertools.cycle(launches)
    count = _warm_up(provider, turns, len(launches))
    samples: list[Sample] = []
    values: list[float] = []
    began_ns = perf_counter_ns()
    while (stop := decide(values, (perf_counter_ns() - began_ns) / 1e9, rule)) is None:
        samples.append(provider.time(list(itertools.islice(turns, count))))
        values.append(time_of(samples[-1]))
    marks = marks_of(values, stop, rule)
    if any(one.device_ns is not None for one in samples):
        device_ns = median(values)
        marks += (
            ["launch-bound"] if launch_bound(median([o.launch_ns / o.launches for o in samples]), device_ns) else []
        )
    return Series(tuple(samples), stop, tuple(marks))


def _warm_up(provider: Provider, turns: Iterator[Launch], steps: int) -> int:
    """Run each launch at least once, for some time; how many launches make a batch that can be timed."""
    first = provider.time([next(turns)])
    done, spent_ns = 1, first.wall_ns
    while (done < max(WARM_LAUNCHES, steps) or spent_ns < WARM_NS) and spent_ns < MOST_WARM_NS:
        first = provider.time([next(turns)])
        done, spent_ns = done + 1, spent_ns + first.wall_ns
    return batch_size(first)


def batch_size(one: Sample) -> int:
    """Launches that fill the least batch, judged by one that was timed alone."""
    least_ns = LEAST_BATCH_NS if one.device_ns is None else LEAST_EVENT_BATCH_NS
    return min(MOST_LAUNCHES, max(1, math.ceil(least_ns / max(1.0, time_of(one)))))
