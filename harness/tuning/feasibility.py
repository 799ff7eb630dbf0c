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
from harness.engines.flag_resolution import BY_SIMULATOR
from harness.engines.process import EngineEnding
from harness.errors import HarnessError
from harness.messages import Message, message, plain, stored
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
HCCL, PORT, TIMEOUT, CRASH = "hccl", "port", "timeout", "crash"

_MESSAGES: Mapping[str, str] = {
    CONFIGURATION: "tuning.configuration_refused",
    MODEL: "tuning.model_not_loaded",
    DEVICE: "tuning.device_unusable",
    MEMORY_AT_START: "tuning.memory_at_start",
    MEMORY_AT_CAPTURE: "tuning.memory_at_capture",
    MEMORY_AT_RUN: "tuning.memory_at_run",
    HCCL: "tuning.hccl_failed",
    PORT: "tuning.port_in_use",
    TIMEOUT: "tuning.timed_out",
    CRASH: "tuning.crashed",
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


def classify_failure(lines: Iterable[str], ending: EngineEnding | None = None) -> TrialFailure:
    """The failure that an engine's log and its end tell.

    A reason in the log goes before the clock: an engine that hangs after its memory ran out was not slow.
    """
    log = list(lines)
    ending = ending or EngineEnding()
    cause = engine_log.failure_cause(log)
    kind = _KINDS[cause.kind]
    if kind == MEMORY_AT_START and engine_log.boot_facts(log).serves:
        kind = MEMORY_AT_RUN
    if kind == CRASH and ending.timed_out:
        return failure_of_kind(TIMEOUT, cause.line)
    if kind == CRASH and ending.status in (-_KILLED, 128 + _KILLED):
        kind = MEMORY_AT_RUN if engine_log.boot_facts(log).serves else MEMORY_AT_START
        killed = message("tuning.killed_by_signal", signal=_KILLED)
        return TrialFailure(kind, retryable=True, line=str(killed), message=killed.as_dict())
    return failure_of_kind(kind, cause.line)


def failure_of_kind(kind: str, line: str = "") -> TrialFailure:
    """A failure of a known kind."""
    return TrialFailure(kind, kind in RETRYABLE, line)


def failure_line(failure: TrialFailure) -> Message:
    """The failure in one line."""
    code = _MESSAGES.get(failure.kind)
    meaning = plain(failure.kind) if code is None else message(code)
    line = stored(failure.message, failure.line) if failure.message else failure.line
    return message("tuning.failure", meaning=meaning, line=line) if failure.line else meaning


SHARE, TOKENS, REQUESTS, BLOCK = "gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs", "block_size"
_TOO_SMALL = re.compile(
    r"To serve at least one request|No available memory for the cache|larger than the maximum number|for kv \(-"
)
_MARGIN = 0.02  # of the needed cache: the arithmetic is not closer than that
_PRIOR_GIB = (0.3, 0.1)  # GiB: how far offset and slope (an 8k tokens) of the correction may lie from 0 unseen


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

    starts: list[StartRecord] = field(default_factory=list)

    def add(self, record: StartRecord) -> None:
        """One more start."""
        self.starts.append(record)

    def predicted_failure(self, candidate: Candidate) -> str | None:
        """The kind of failure that is predicted of a candidate; None where nothing speaks against it."""
        if candidate.resolved.refusal is not None:
            return classify_failure([str(candidate.resolved.refusal)]).kind
        for record in self.starts:
            kind = None if record.failure is None else _dominated(record, candidate) or _blamed(record, candidate)
            if kind is not None:
                return kind
        return MEMORY_AT_START if self._too_small(candidate) else None

    def memory_excess(self, candidate: Candidate) -> float:
        """By which share of the device's memory a candidate asks for more than any start that came up; 0 unasked.

        What a start takes beside its share (graphs, fragments) no arithmetic knows before one has failed.
        A doubling of the requests, for each of whose batches a graph is captured, counts as a hundredth.
        """
        flags = _flags(candidate)
        served = [record.flags for record in self.starts if record.failure is None]
        if not served or not _number(flags, SHARE) > 0:
            return 0.0
        return min(_more(flags, theirs) for theirs in served)

    def _too_small(self, candidate: Candidate) -> bool:
        """Whether the corrected cache does not hold one request of the longest length."""
        expected, needed = self.cache_gib(candidate), _needed_gib(candidate, self.starts)
        return expected is not None and needed is not None and expected < needed * (1 - _MARGIN)

    def cache_gib(self, candidate: Candidate) -> float | None:
        """The cache that the arithmetic expects (GiB), corrected by the logs; None where neither tells."""
        prior = _prior_gib(candidate, self.starts)
        if prior is None:
            return None
        logged = [
            (record, expected)
            for record in self.starts
            if record.facts.available_kv_gib is not None
            and (expected := _prior_gib(record.candidate, self.starts)) is not None
        ]
        if not logged:
            return prior
        rows = np.asarray([_row(record.candidate) for record, _ in logged])
        residuals = np.asarray([(record.facts.available_kv_gib or 0.0) - expected for record, expected in logged])
        ridge = np.diag([0.02**2 / deviation**2 for deviation in _PRIOR_GIB])
        coefficients = np.linalg.solve(rows.T @ rows + ridge, rows.T @ residuals)
        return prior + float(np.asarray(_row(candidate)) @ coefficients)


def _more(flags: Mapping[str, Any], served_flags: Mapping[str, Any]) -> float:
    """By how much more of the memory one asks than the other."""
    requests = math.log2(max(_number(flags, REQUESTS), 1.0) / max(_number(served_flags, REQUESTS), 1.0))
    return max(0.0, _number(flags, SHARE) - _number(served_flags, SHARE)) + 0.01 * max(0.0, requests)


def _flags(candidate: Candidate) -> Mapping[str, Any]:
    return {**candidate.engine.args, **candidate.resolved.effective}


def _row(candidate: Candidate) -> list[float]:
    return [1.0, float(_flags(candidate).get(TOKENS) or 0) / 8192]


def _prior_gib(candidate: Candidate, taught: Sequence[StartRecord]) -> float | None:
    """By the simulator's memory model for the simulated device; else the share of the memory that the logs tell of."""
    flags = _flags(candidate)
    total = next((record.facts.total_gib for record in taught if record.facts.total_gib is not None), None)
    if total is not None and SHARE in flags and candidate.resolved.by != BY_SIMULATOR:
        return total * float(flags[SHARE]) - max((record.facts.weights_gib or 0.0 for record in taught), default=0.0)
    if candidate.resolved.by != BY_SIMULATOR:
        return None
    return _simulated_gib(
        json.dumps({**candidate.engine.args, "model": candidate.engine.model}, sort_keys=True, default=str)
    )


@functools.cache
def _simulated_gib(flags: str) -> float | None:
    """The cache by the simulator's memory model, of flags as JSON: every start asks for each candidate again."""
    try:
        return memory_of(settings_from_flags(json.loads(flags))).cache / GIB
    except HarnessError:
        return None


def _needed_gib(candidate: Candidate, taught: Sequence[StartRecord]) -> float | None:
    """The cache of one request of the longest length, by what a logged token took."""
    length = _flags(candidate).get("max_model_len")
    sizes = [
        record.facts.available_kv_gib / record.facts.kv_cache_tokens
        for record in taught
        if record.facts.available_kv_gib and record.facts.kv_cache_tokens
    ]
    return None if not sizes or not isinstance(length, int) else length * float(np.median(sizes))


def _dominated(record: StartRecord, candidate: Candidate) -> str | None:
    """The kind of failure of a start that had too little memory, where a candidate asks for at least as much."""
    assert record.failure is not None
    if record.failure.kind not in (MEMORY_AT_START, MEMORY_AT_CAPTURE, MEMORY_AT_RUN):
        return None
    failed_flags, flags = record.flags, _flags(candidate)
    if not _alike(failed_flags, flags):
        return None
    share, failed_share = _number(flags, SHARE), _number(failed_flags, SHARE)
    cache_too_small = _TOO_SMALL.search(record.failure.line) is not None
    no_better = share <= failed_share if cache_too_small else share >= failed_share
    more = all(_number(flags, name) >= _number(failed_flags, name) for name in (TOKENS, REQUESTS))
    return record.failure.kind if no_better and more else None


def _alike(flags: Mapping[str, Any], other_flags: Mapping[str, Any]) -> bool:
    """Whether all that memory hangs on, beside shares and sizes, is the same."""
    free = (SHARE, TOKENS, REQUESTS)
    names = {*flags, *other_flags} - set(free)
    return all(
        str(flags.get(name)) == str(other_flags.get(name))
        for name in names
        if not name.startswith(("cudagraph", "num_gpu", "kv_cache_size"))
    )


def _number(flags: Mapping[str, Any], name: str) -> float:
    value = flags.get(name)
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan if value else 0.0
    )


def _blamed(record: StartRecord, candidate: Candidate) -> str | None:
    """CONFIGURATION where a candidate has a value that an engine refused by name."""
    assert record.failure is not None
    if record.failure.kind != CONFIGURATION:
        return None
    refused = (
        candidate.point.get(name) == value and is_named(name, value, record.failure.line)
        for name, value in record.candidate.point.items()
    )
    return CONFIGURATION if any(refused) else None


def is_named(name: str, value: ParameterValue, line: str) -> bool:
    """Whether a line blames this value of this parameter: both stand in it."""
    spoken = re.escape(name.rpartition(".")[2]).replace("_", "[ _-]")
    return (
        re.search(spoken, line, re.IGNORECASE) is not None
        and re.search(rf"(?<![\d.]){re.escape(str(value))}(?![\d])", line) is not None
    )
