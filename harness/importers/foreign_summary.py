"""What can be said of a benchmark of another tool, in our words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.analysis.warnings import NOTE, WARNING, Warning
from harness.messages import Message, message, plain
from harness.results.request_table import MISSING, Record
from harness.results.store import SUMMARY_FORMAT
from harness.scenario.metrics import ANSWER_TIMES, TIMES
from harness.scenario.stages import label
from harness.units import NS_PER_S

ERRORED = "errored"
STATISTICS = ("mean", "std", "min", "p50", "p90", "p95", "p99", "max")
_WHOLE = message("importers.whole_stage")
_TIMES = ("due_ns", "ready_ns", "sent_ns", "first_ns", "last_ns", "done_ns")


@dataclass(frozen=True, slots=True)
class ForeignRequest:
    """One request as a file tells it: its record, and its token events, in ns since the benchmark's first."""

    record: Record
    times: Sequence[int] = ()
    tokens: Sequence[int] = ()

    def shifted(self, zero_ns: int, index: int, stage: int) -> tuple[Record, Sequence[int], Sequence[int]]:
        """The same request at its place in a run."""
        moved = {name: value + zero_ns for name in _TIMES if (value := getattr(self.record, name)) != MISSING}
        record = replace(self.record, index=index, session=index, stage=stage, **moved)
        return record, [at + zero_ns for at in self.times], self.tokens


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark: its load in our words, and its requests, or else what it says of them together.

    `statistics` are values of a stage of summary.json, as far as they are known.
    """

    load: Mapping[str, Any]
    requests: Sequence[ForeignRequest] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A result file of another tool."""

    tool: str
    model: str | None
    started_utc: str
    endpoint: str
    simulated: bool
    benchmarks: Sequence[Benchmark]
    notes: Sequence[Message]


def ns_of(seconds: float | None, zero_s: float = 0.0) -> int:
    """Nanoseconds since a zero; MISSING where there is no time."""
    return MISSING if seconds is None else round((seconds - zero_s) * NS_PER_S)


def load_of(rate: float | None, burstiness: float, users: int, requests: int) -> dict[str, Any]:
    """A stage's load: an open loop with a rate, else a closed one."""
    if rate is None:
        return {"kind": "closed", "concurrency": max(1, users), "requests": requests}
    if burstiness == 1.0:
        return {"kind": "poisson", "rate": rate, "requests": requests}
    return {"kind": "gamma", "rate": rate, "burstiness": burstiness, "requests": requests}


def bare_summary(foreign: Foreign, run: Mapping[str, Any]) -> dict[str, Any]:
    """summary.json of a file that holds only statistics."""
    stages = [_bare_stage(i, benchmark) for i, benchmark in enumerate(foreign.benchmarks)]
    unknown = Warning(
        "imported",
        WARNING,
        message("importers.only_statistics", tool=foreign.tool),
        message("importers.next_requests"),
    )
    warnings = [unknown, *(Warning("workload", NOTE, note, plain("")) for note in foreign.notes)]
    answer = message("importers.answer", tool=foreign.tool, figures=_figures(stages[-1]))
    answer = message("importers.simulated", answer=answer) if foreign.simulated else answer
    return {
        "format": SUMMARY_FORMAT,
        "name": run["name"],
        "question": run["question"],
        "answer": str(answer),
        "answer_message": answer.as_dict(),
        "simulated": foreign.simulated,
        "engine": {key: run["engine"].get(key) for key in ("kind", "simulated", "model", "effective")},
        "repeats": 1,
        "verdict": {"valid": True, "warnings": [warning.as_dict() for warning in warnings]},
        "tokens": None,
        "stages": stages,
    }


def _figures(stage: Mapping[str, Any]) -> list[Message]:
    """What of the speed of a stage is known: each a clause of the answer."""
    values = {
        "request_rate": ("importers.request_rate", stage["request_rate"]),
        "output_token_rate": ("importers.output_token_rate", stage["output_token_rate"]),
        "ttft": ("importers.mean_ttft", stage["ttft"]["mean"]),
        "tpot": ("importers.mean_tpot", stage["tpot"]["mean"]),
    }
    return [message(code, value=value) for code, value in values.values() if value is not None] or [
        message("importers.no_figures")
    ]


def _bare_stage(index: int, benchmark: Benchmark) -> dict[str, Any]:
    known = benchmark.statistics
    counts = known.get("requests") or {}
    names = ("scheduled", "sent", "completed", "failed", "cancelled", "never_sent", "warmup", "in_window")
    return {
        "index": index,
        "repeat": 0,
        "label": label(benchmark.load),
        "load": dict(benchmark.load),
        "window_s": known.get("window_s"),
        "window": {
            "start_s": 0.0, "end_s": known.get("window_s"), "method": "whole stage", "steady": None,
            "text": str(_WHOLE), "message": _WHOLE.as_dict(),
        },
        "requests": {name: counts.get(name, 0) for name in names},
        "errors": {},
        "input_tokens": known.get("input_tokens") or 0,
        "output_tokens": known.get("output_tokens") or 0,
        **{
            name: known.get(name)
            for name in ("request_rate", "output_token_rate", "total_token_rate", "event_rate", "goodput")
        },
        "slo_met": None,
        "slo": {},
        "concurrency": {"mean": None, "max": known.get("concurrency_max")},
        "merged_share": None,
        **{name: _distribution(known.get(name) or {}) for name in TIMES if name not in ANSWER_TIMES},
    }  # fmt: skip


def _distribution(known: Mapping[str, Any]) -> dict[str, Any]:
    return {"n": known.get("n", 0), **{name: known.get(name) for name in STATISTICS}, "ci95": {}}
