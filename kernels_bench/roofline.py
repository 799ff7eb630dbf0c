"""How far a time is from the hardware's limit, and which limit that is."""

from collections.abc import Mapping
from dataclasses import dataclass

from kernels_bench.cases import Work

MEMORY, COMPUTE = "memory", "compute"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device can do: of its data sheet, or measured in the same run by a copy and a matrix product."""

    source: str
    """`chip` or `measured`."""
    bytes_per_s: float
    flops_per_s: Mapping[str, float]
    """By dtype."""


@dataclass(frozen=True, slots=True)
class Distance:
    """A time against one set of limits."""

    source: str
    bound: str
    """`memory` or `compute`: the limit that takes longer."""
    ideal_s: float
    """The longer of bytes / bandwidth and FLOPs / rate: no kernel is faster where the data come from memory."""
    fraction: float
    """Ideal over real time: 1 is at the limit; above 1 the data came from a cache or the limit is set too low."""

    @property
    def gap_s(self) -> float:
        """What a kernel at the limit would save."""
        return self.ideal_s / self.fraction - self.ideal_s


def distance(work: Work, dtype: str, seconds: float, limits: Limits) -> Distance | None:
    """How far a time of a case is from the limits (Williams, Waterman and Patterson, CACM 52(4), 2009).

    None where the limits say nothing about the dtype of a case that computes, or the time is not positive.
    """
    rate = limits.flops_per_s.get(dtype)
    if seconds <= 0 or limits.bytes_per_s <= 0 or (work.flops and not rate):
        return None
    moving_s = work.moved_bytes / limits.bytes_per_s
    computing_s = work.flops / rate if rate else 0.0
    ideal_s = max(moving_s, computing_s)
    return Distance(limits.source, MEMORY if moving_s >= computing_s else COMPUTE, ideal_s, ideal_s / seconds)
