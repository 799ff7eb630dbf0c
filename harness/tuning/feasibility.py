"""Failures of engine starts: their classes, and which candidates would fail by what starts so far have shown.

Causes are read from the log by `harness.engines.engine_log`; here its kinds become those of tuning, where it matters
when memory ran out (at a start: about memory, under load: about the load) and whether the point or the moment is to
blame. Predictions: the cache size from the memory model, corrected by every start's log; a configuration that asks for
at least as much memory as one that ran out; a value that an engine refused by name.
"""

import functools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.engines import engine_log
from harness.engines.engine_log import BootFacts
from harness.errors import HarnessError
from harness.simulator.chips import GIB
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import memory_of
from harness.tuning.candidates import Candidate
from harness.tuning.types import ParameterValue, TrialFailure

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
    engine_log.FLAG: CONFIGURATION,
    engine_log.CONFIG: CONFIGURATION,
    engine_log.MODEL: MODEL,
    engine_log.DEVICE: DEVICE,
    engine_log.HCCL: HCCL,
    engine_log.PORT: PORT,
    engine_log.CAPTURE: MEMORY_AT_CAPTURE,
    engine_log.MEMORY: MEMORY_AT_START,
    engine_log.CRASH: CRASH,
}
_KILLED = 9  # the signal by which a kernel that has no memory left ends a process


@dataclass(frozen=True, slots=True)
class EngineEnding:
    """How an engine ended: its exit status (negative: by that signal; None: it lived), and whether it was too slow."""

    status: int | None = None
    timed_out: bool = False


def classify_failure(lines: Iterable[str], ending: EngineEnding | None = None) -> TrialFailure:
    """The failure that an engine's log and its end tell.

    A reason in the log goes before the clock: an engine that hangs after its memory ran out was not slow.
    """
    told = list(lines)
    ending = ending or EngineEnding()
    found = engine_log.failure_cause(told)
    kind = _KINDS[found.kind]
    if kind == MEMORY_AT_START and engine_log.boot_facts(told).serves:
        kind = MEMORY_AT_RUN
    if kind == CRASH and ending.timed_out:
        return failure_of_kind(TIMEOUT, found.line)
    if kind == CRASH and ending.status in (-_KILLED, 128 + _KILLED):
        kind = MEMORY_AT_RUN if engine_log.boot_facts(told).serves else MEMORY_AT_START
        return TrialFailure(kind, retryable=True, line=f"killed by signal {_KILLED}, as a host without memory does")
    return failure_of_kind(kind, found.line)


def failure_of_kind(kind: str, line: str = "") -> TrialFailure:
    """A failure of a known kind."""
    return TrialFailure(kind, kind in RETRYABLE, line)


def failure_line(one: TrialFailure) -> str:
    """The failure in one line."""
    meaning = MEANINGS.get(one.kind, one.kind)
    return f"{meaning}: {one.line}" if one.line else meaning


SHARE, TOKENS, REQUESTS, BLOCK = "gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs", "block_size"
_TOO_SMALL = re.compile(
    r"To serve at least one request|No available memory for the cache|larger than the maximum number|for kv \(-"
)
_MARGIN = 0.02  # of the needed cache: the arithmetic is not closer than that
_BELIEF = (0.3, 0.1)  # GiB: how far offset and slope (an 8k tokens) of the correction may lie from 0 unseen


@dataclass(frozen=True, slots=True)
class StartRecord:
    """One start: what was asked and became of it, what its log told, and why it failed, if it did."""

    candidate: Candidate
    facts: BootFacts
    failure: TrialFailure | None = None

    @property
    def flags(self) -> Mapping[str, Any]:
        """The flags in force."""
        return {**self.candidate.engine.args, **self.candidate.resolved.effective}


@dataclass(slots=True)
class Feasibility:
    """All starts so far, and what follows from them."""

    starts_seen: list[StartRecord] = field(default_factory=list)

    def add(self, lesson: StartRecord) -> None:
        """One more start."""
        self.starts_seen.append(lesson)

    def predicted_failure(self, candidate: Candidate) -> TrialFailure | None:
        """Why a candidate is predicted not to serve; None where nothing speaks against it."""
        if candidate.resolved.fault is not None:
            return classify_failure([candidate.resolved.fault])
        failed = [one for one in self.starts_seen if one.failure is not None]
        for lesson in failed:
            why = _dominated(lesson, candidate) or _blamed(lesson, candidate)
            if why is not None:
                return why
        return self._too_small(candidate)

    def memory_excess(self, candidate: Candidate) -> float:
        """By which share of the device's memory a candidate asks for more than any start that came up; 0 unasked.

        What a start takes beside its share (graphs, fragments) no arithmetic knows before one has failed.
        A doubling of the requests, for each of whose batches a graph is captured, counts as a hundredth.
        """
        own = _flags(candidate)
        served = [one.flags for one in self.starts_seen if one.failure is None]
        if not served or not _number(own, SHARE) > 0:
            return 0.0
        return min(_more(own, theirs) for theirs in served)

    def _too_small(self, candidate: Candidate) -> TrialFailure | None:
        """Whether the corrected cache does not hold one request of the longest length."""
        expected, needed = self.cache_gib(candidate), _needed_gib(candidate, self.starts_seen)
        if expected is None or needed is None or expected >= needed * (1 - _MARGIN):
            return None
        line = f"{expected:.2f} GiB of cache expected, by {len(self.starts_seen)} start-up logs; {needed:.2f} needed"
        return failure_of_kind(MEMORY_AT_START, line)

    def cache_gib(self, candidate: Candidate) -> float | None:
        """The cache that the arithmetic expects (GiB), corrected by the logs; None where neither tells."""
        prior = _prior_gib(candidate, self.starts_seen)
        if prior is None:
            return None
        seen = [
            (one, expected)
            for one in self.starts_seen
            if one.facts.available_kv_gib is not None
            and (expected := _prior_gib(one.candidate, self.starts_seen)) is not None
        ]
        if not seen:
            return prior
        rows = np.asarray([_row(one.candidate) for one, _ in seen])
        left = np.asarray([(one.facts.available_kv_gib or 0.0) - expected for one, expected in seen])
        ridge = np.diag([0.02**2 / belief**2 for belief in _BELIEF])
        found = np.linalg.solve(rows.T @ rows + ridge, rows.T @ left)
        return prior + float(np.asarray(_row(candidate)) @ found)


def _more(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """By how much more of the memory one asks than the other."""
    requests = math.log2(max(_number(own, REQUESTS), 1.0) / max(_number(theirs, REQUESTS), 1.0))
    return max(0.0, _number(own, SHARE) - _number(theirs, SHARE)) + 0.01 * max(0.0, requests)


def _flags(candidate: Candidate) -> Mapping[str, Any]:
    return {**candidate.engine.args, **candidate.resolved.effective}


def _row(candidate: Candidate) -> list[float]:
    return [1.0, float(_flags(candidate).get(TOKENS) or 0) / 8192]


def _prior_gib(candidate: Candidate, taught: Sequence[StartRecord]) -> float | None:
    """By the twin's arithmetic for the simulated device; else the share of the memory that the logs tell of."""
    flags = _flags(candidate)
    total = next((one.facts.total_gib for one in taught if one.facts.total_gib is not None), None)
    if total is not None and SHARE in flags and candidate.resolved.by != "twin":
        return total * float(flags[SHARE]) - max((one.facts.weights_gib or 0.0 for one in taught), default=0.0)
    if candidate.resolved.by != "twin":
        return None
    return _twins_gib(
        json.dumps({**candidate.engine.args, "model": candidate.engine.model}, sort_keys=True, default=str)
    )


@functools.cache
def _twins_gib(flags: str) -> float | None:
    """The cache by the twin's arithmetic, of flags as JSON: each candidate is asked for after every start."""
    try:
        return memory_of(settings_from_flags(json.loads(flags))).cache / GIB
    except HarnessError:
        return None


def _needed_gib(candidate: Candidate, taught: Sequence[StartRecord]) -> float | None:
    """The cache of one request of the longest length, by what a logged token took."""
    length = _flags(candidate).get("max_model_len")
    sizes = [
        one.facts.available_kv_gib / one.facts.kv_cache_tokens
        for one in taught
        if one.facts.available_kv_gib and one.facts.kv_cache_tokens
    ]
    return None if not sizes or not isinstance(length, int) else length * float(np.median(sizes))


def _dominated(lesson: StartRecord, candidate: Candidate) -> TrialFailure | None:
    """Whether a candidate asks at least as much of memory as one that had too little."""
    assert lesson.failure is not None
    if lesson.failure.kind not in (MEMORY_AT_START, MEMORY_AT_CAPTURE, MEMORY_AT_RUN):
        return None
    theirs, own = lesson.flags, _flags(candidate)
    if not _alike(theirs, own):
        return None
    smaller = _TOO_SMALL.search(lesson.failure.line) is not None
    share = _number(own, SHARE) <= _number(theirs, SHARE) if smaller else _number(own, SHARE) >= _number(theirs, SHARE)
    more = all(_number(own, name) >= _number(theirs, name) for name in (TOKENS, REQUESTS))
    if not (share and more):
        return None
    return failure_of_kind(lesson.failure.kind, f"asks no less of memory than one that failed: {lesson.failure.line}")


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether all that memory hangs on, beside shares and sizes, is the same."""
    free = (SHARE, TOKENS, REQUESTS)
    names = {*one, *other} - set(free)
    return all(
        str(one.get(name)) == str(other.get(name))
        for name in names
        if not name.startswith(("cudagraph", "num_gpu", "kv_cache_size"))
    )


def _number(flags: Mapping[str, Any], name: str) -> float:
    value = flags.get(name)
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan if value else 0.0
    )


def _blamed(lesson: StartRecord, candidate: Candidate) -> TrialFailure | None:
    """Whether a candidate has a value that an engine refused by name."""
    assert lesson.failure is not None
    if lesson.failure.kind != CONFIGURATION:
        return None
    for name, value in lesson.candidate.point.items():
        if candidate.point.get(name) == value and is_named(name, value, lesson.failure.line):
            return failure_of_kind(CONFIGURATION, f"{name} {value} was refused before: {lesson.failure.line}")
    return None


def is_named(name: str, value: ParameterValue, line: str) -> bool:
    """Whether a line blames this value of this parameter: both stand in it."""
    spoken = re.escape(name.rpartition(".")[2]).replace("_", "[ _-]")
    return (
        re.search(spoken, line, re.IGNORECASE) is not None
        and re.search(rf"(?<![\d.]){re.escape(str(value))}(?![\d])", line) is not None
    )
