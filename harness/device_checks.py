"""Were the NPUs fit to be measured: at their full clock, healthy, and nobody else's?

Each check looks at what was sampled of the devices within a stage's window and yields its doubts.
"""

from collections.abc import Iterator

from harness.doubts import DOUBT, Doubt, Evidence
from harness.energy import chips_in_use, values_of
from harness.records import Samples
from harness.units import format_count, format_share

FULL_CLOCK = 0.95  # of the limit; clocks move in steps of tens of MHz, and a single step slows nothing
SLOW_READINGS = 0.1  # of those while busy: one reading in ten seconds may catch a moment between two batches
FEWEST_READINGS = 2
ONE_ENGINE = 1  # vLLM has one process on a chip


def throttled(evidence: Evidence) -> Iterator[Doubt]:
    """A chip that lowers its clock under load (heat, or a limit of power) is slower than its kind."""
    inside = _inside(evidence)
    for chip in sorted(chips_in_use(inside)):
        shares = values_of(inside, chip, "busy_clock_share")
        slow = int((shares < FULL_CLOCK).sum())
        if slow >= FEWEST_READINGS and slow > SLOW_READINGS * len(shares):
            text = (
                f"{chip} ran below its full clock in {format_count(slow)} of {format_count(len(shares))} readings "
                f"while it was busy, at {format_share(float(shares.min()))} of it at the lowest: it throttles."
            )
            yield Doubt("device_throttled", DOUBT, text, "Check cooling and the power limit: npu-smi info -t temp.")


def shared(evidence: Evidence) -> Iterator[Doubt]:
    """A chip that several processes hold memory of has another user beside the engine."""
    inside = _inside(evidence)
    for chip in sorted(chips_in_use(inside)):
        most = values_of(inside, chip, "processes").max(initial=0.0)
        if most > ONE_ENGINE:
            text = f"{format_count(most)} processes held memory of {chip}: it was shared, and its speed with it."
            yield Doubt("device_shared", DOUBT, text, "Stop the other process, found with npu-smi info, and run again.")


def unhealthy(evidence: Evidence) -> Iterator[Doubt]:
    """A chip whose health npu-smi does not call OK."""
    inside = _inside(evidence)
    for chip in sorted(chips_in_use(inside)):
        if values_of(inside, chip, "healthy").min(initial=1.0) < 1:
            text = f"npu-smi did not call {chip} healthy while it was measured."
            yield Doubt("device_unhealthy", DOUBT, text, "Run harness doctor, and npu-smi info -t health.")


def _inside(evidence: Evidence) -> Samples:
    window, samples = evidence.summary.window, evidence.samples
    return samples.take((samples.at_ns >= window.start_ns) & (samples.at_ns <= window.end_ns))


DEVICE_CHECKS = (throttled, shared, unhealthy)
