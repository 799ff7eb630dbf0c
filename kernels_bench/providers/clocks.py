"""The time of a batch of launches: the host's clock, or a pair of device events where there are some."""

from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Protocol

from kernels_bench.providers.base import Launch, Sample


class Event(Protocol):
    """An event of torch.cuda or torch.npu, made with enable_timing=True."""

    def record(self) -> None:
        """Mark this place of the current stream."""

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds between two marks that the device has passed."""


def clocked(batch: Sequence[Launch], synchronize: Callable[[], None]) -> Sample:
    """Time a batch by the host's clock, from an idle device to an idle device."""
    synchronize()
    began_ns = perf_counter_ns()
    for launch in batch:
        launch()
    launched_ns = perf_counter_ns()
    synchronize()
    return Sample(len(batch), launched_ns - began_ns, perf_counter_ns() - began_ns)


def evented(batch: Sequence[Launch], make_event: Callable[[], Event], synchronize: Callable[[], None]) -> Sample:
    """Time a batch by a pair of device events, with the host's times beside them.

    The events enclose what the device did from the first launch to the last, gaps while it waited for the host
    included: a graph replay has none.
    """
    first, last = make_event(), make_event()
    synchronize()
    began_ns = perf_counter_ns()
    first.record()
    for launch in batch:
        launch()
    last.record()
    launched_ns = perf_counter_ns()
    synchronize()
    wall_ns = perf_counter_ns() - began_ns
    return Sample(len(batch), launched_ns - began_ns, wall_ns, round(first.elapsed_time(last) * 1e6))
