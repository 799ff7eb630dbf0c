"""Marks of an unsure time, from its samples and from what the device told."""

from collections.abc import Mapping, Sequence

from kernels_bench.stopping import Rule, Stop, median

NOISY_SPREAD = 0.10  # middle half of the samples, relative to the median: beyond it a median hides two regimes
DRIFT = 0.05  # last third against first third: a clock that falls, or a neighbour that came
CLOCK_LOSS = 0.03  # a clock lower by this after the samples than before explains as much of their times
CROWDED = 0.05  # of the time without a core: a quiet system takes one away for less than a thousandth of it
LAUNCH_SHARE = 0.9  # host time a launch, relative to device time: the device waited for the host


def marks_of(values: Sequence[float], stop: Stop, rule: Rule) -> list[str]:
    """Marks of a series of times in the order they were taken: `noisy`, `drifting`, `slower-later`."""
    marks = []
    if stop.noise > rule.noise and (stop.reason != "quiet" or _spread(values) > NOISY_SPREAD):
        marks.append("noisy")
    third = len(values) // 3
    if third >= 3:
        first, last = median(values[:third]), median(values[-third:])
        if abs(last - first) > DRIFT * first:
            marks.append("slower-later" if last > first else "faster-later")
    return marks


def _spread(values: Sequence[float]) -> float:
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / median(values)


def throttled(before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    """Whether the device's clock fell between two looks at it; False where it does not tell."""
    was, became = before.get("clock_mhz"), after.get("clock_mhz")
    if not isinstance(was, int | float) or not isinstance(became, int | float):
        return False
    return became < was * (1 - CLOCK_LOSS)


def launch_bound(launch_ns: float, device_ns: float | None) -> bool:
    """Whether the device waited for the host: a launch takes about as long as the work it starts."""
    return device_ns is not None and launch_ns >= LAUNCH_SHARE * device_ns
