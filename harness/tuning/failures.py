"""Why did a trial give no value, and may another try end otherwise?

The log is read by `harness.engines.failure_cause`; here its kinds become those of tuning, where it
matters when memory ran out (a start teaches about memory, a run about load) and whether the point
or the moment is to blame.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.engines import boot_log, failure_cause
from harness.tuning.types import Failure

CONFIGURATION, MODEL, DEVICE = "configuration", "model", "device"
MEMORY_AT_START, MEMORY_AT_CAPTURE, MEMORY_AT_RUN = (
    "out_of_memory_at_start",
    "out_of_memory_at_capture",
    "out_of_memory_at_run",
)
HCCL, PORT, TIMEOUT, CRASH, SLO = "hccl", "port", "timeout", "crash", "slo_missed"

MEANINGS: Mapping[str, str] = {
    CONFIGURATION: "the configuration was refused",
    MODEL: "the model cannot be loaded",
    DEVICE: "the device or its software is not usable",
    MEMORY_AT_START: "out of memory while starting",
    MEMORY_AT_CAPTURE: "out of memory or streams while graphs were captured",
    MEMORY_AT_RUN: "out of memory while serving",
    HCCL: "HCCL, the link between devices, failed",
    PORT: "its port was in use",
    TIMEOUT: "it was not ready, or did not answer, in time",
    CRASH: "it crashed",
    SLO: "it served, and missed the SLO",
}
RETRYABLE = frozenset({HCCL, PORT, TIMEOUT, CRASH, DEVICE})
"""The moment may be to blame. What memory, flags or the SLO decide is the same the next time."""

_KINDS: Mapping[str, str] = {
    failure_cause.FLAG: CONFIGURATION,
    failure_cause.CONFIG: CONFIGURATION,
    failure_cause.MODEL: MODEL,
    failure_cause.DEVICE: DEVICE,
    failure_cause.HCCL: HCCL,
    failure_cause.PORT: PORT,
    failure_cause.CAPTURE: MEMORY_AT_CAPTURE,
    failure_cause.MEMORY: MEMORY_AT_START,
    failure_cause.CRASH: CRASH,
}
_KILLED = 9  # the signal by which a kernel that has no memory left ends a process


@dataclass(frozen=True, slots=True)
class Ending:
    """How an engine ended: its exit status (negative: by that signal; None: it lived), and whether it was too slow."""

    status: int | None = None
    timed_out: bool = False


def classified(lines: Iterable[str], ending: Ending | None = None) -> Failure:
    """The failure that an engine's log and its end tell.

    A reason in the log goes before the clock: an engine that hangs after its memory ran out was not slow.
    """
    told = list(lines)
    ending = ending or Ending()
    found = failure_cause.failure_of(told)
    kind = _KINDS[found.kind]
    if kind == MEMORY_AT_START and boot_log.boot_facts(told).serves:
        kind = MEMORY_AT_RUN
    if kind == CRASH and ending.timed_out:
        return failure(TIMEOUT, found.line)
    if kind == CRASH and ending.status in (-_KILLED, 128 + _KILLED):
        kind = MEMORY_AT_RUN if boot_log.boot_facts(told).serves else MEMORY_AT_START
        return Failure(kind, retryable=True, line=f"killed by signal {_KILLED}, as a host without memory does")
    return failure(kind, found.line)


def failure(kind: str, line: str = "") -> Failure:
    """A failure of a known kind."""
    return Failure(kind, kind in RETRYABLE, line)


def words(one: Failure) -> str:
    """The failure in one line."""
    meaning = MEANINGS.get(one.kind, one.kind)
    return f"{meaning}: {one.line}" if one.line else meaning
