"""The metrics of a result: names after OpenTelemetry's GenAI conventions where these have one, units, attributes.

A metric is a gauge: one number of a whole stage, such as the p99 of its times to first chunk. The conventions have
histograms of single calls under these names; a result has exact statistics of them, told apart by `statistic`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.results import store
from harness.results.progress import Progress, StageProgress, StudyProgress
from harness.results.study import STUDY
from harness.safety.redaction import redact_tree

STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")
SECONDS, PER_SECOND, TOKENS_PER_SECOND, REQUESTS, TOKENS, TRIALS, ONE = (
    "s",
    "{request}/s",
    "{token}/s",
    "{request}",
    "{token}",
    "{trial}",
    "1",
)
Attribute = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Metric:
    """The name of a metric, its unit (UCUM), and what of a stage of summary.json it is."""

    name: str
    unit: str
    key: str


LATENCIES = (
    Metric("gen_ai.client.operation.time_to_first_chunk", SECONDS, "ttft"),
    Metric("gen_ai.client.operation.time_per_output_chunk", SECONDS, "chunk_gap"),
    Metric("gen_ai.client.operation.duration", SECONDS, "e2e"),
    Metric("npu_harness.time_to_first_chunk_from_due", SECONDS, "ttft_user"),
    Metric("npu_harness.duration_from_due", SECONDS, "e2e_user"),
    Metric("npu_harness.time_per_output_token", SECONDS, "tpot"),
    Metric("npu_harness.inter_token_latency", SECONDS, "itl"),
)
RATES = (
    Metric("npu_harness.offered_rate", PER_SECOND, "offered_rate"),
    Metric("npu_harness.request_rate", PER_SECOND, "request_rate"),
    Metric("npu_harness.goodput", PER_SECOND, "goodput"),
    Metric("npu_harness.output_token_rate", TOKENS_PER_SECOND, "output_token_rate"),
    Metric("npu_harness.total_token_rate", TOKENS_PER_SECOND, "total_token_rate"),
)
TOKEN_USAGE = Metric("gen_ai.client.token.usage", TOKENS, "")
OUTCOMES = Metric("npu_harness.requests", REQUESTS, "requests")
SLO_MET = Metric("npu_harness.slo_met", ONE, "slo_met")
VALID = Metric("npu_harness.valid", ONE, "")
TRIAL = Metric("npu_harness.trial", ONE, "")
KERNEL = Metric("npu_harness.kernel.time", SECONDS, "")
LIVE = (
    Metric("npu_harness.live.in_flight", REQUESTS, "in_flight"),
    Metric("npu_harness.live.sent", REQUESTS, "sent"),
    Metric("npu_harness.live.answered", REQUESTS, "answered"),
    Metric("npu_harness.live.failed", REQUESTS, "failed"),
    Metric("npu_harness.live.offered_rate", PER_SECOND, "offered_rate"),
    Metric("npu_harness.live.request_rate", PER_SECOND, "request_rate"),
    Metric("npu_harness.live.output_token_rate", TOKENS_PER_SECOND, "output_token_rate"),
)
LIVE_LATENCIES = (
    Metric("npu_harness.live.time_to_first_chunk", SECONDS, "ttft"),
    Metric("npu_harness.live.inter_token_latency", SECONDS, "itl"),
)
LIVE_STUDY = (
    Metric("npu_harness.live.trials_done", TRIALS, "done"),
    Metric("npu_harness.live.trials_stopped", TRIALS, "stopped"),
    Metric("npu_harness.live.trials_failed", TRIALS, "failed"),
    Metric("npu_harness.live.best", ONE, "best"),
    Metric("npu_harness.live.default", ONE, "default"),
)
METRICS = (
    *LATENCIES, *RATES, TOKEN_USAGE, OUTCOMES, SLO_MET, VALID, TRIAL, KERNEL, *LIVE, *LIVE_LATENCIES, *LIVE_STUDY,
)  # fmt: skip
"""All of them, as docs/reference/export.md lists them."""


@dataclass(frozen=True, slots=True)
class Point:
    """One number of a metric; `step` orders the points of a series: the stage, the trial, or the second of a run."""

    metric: Metric
    value: float
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    step: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The metrics of a run at one moment, or of its result.

    `attributes` hold for all points: the run's name, its model, and whether a simulator answered. `files` of a finished
    result are those worth keeping beside its metrics.
    """

    name: str
    attributes: Mapping[str, Attribute]
    points: Sequence[Point]
    files: Sequence[Path] = ()


def snapshot_of(folder: Path) -> Snapshot:
    """The metrics of a finished result or study.

    Raises:
        ResultError: where there is none.
    """
    if (folder / STUDY).exists():
        return _study(folder, store.read_json(folder, STUDY))
    summary, run = store.read_json(folder, store.SUMMARY), store.read_run(folder)
    engine = summary.get("engine") or {}
    common = _common(str(summary["name"]), engine, simulated=bool(summary["simulated"]))
    common |= {"gen_ai.operation.name": "chat" if run.get("endpoint") == "chat" else "text_completion"}
    common |= {"npu_harness.started": str(run.get("started_utc") or "")}
    points = [Point(VALID, float(bool(summary["verdict"]["valid"]))), *_stages(summary), *_kernels(summary)]
    return Snapshot(str(summary["name"]), common, points, _files(folder, store.SUMMARY, "report.html"))


def live_snapshot(progress: Progress | StudyProgress) -> Snapshot:
    """The metrics of a run under way (counters and latencies of the stage that runs), or of a study."""
    if isinstance(progress, StudyProgress):
        return _live_study(progress)
    engine = {"kind": progress.engine_kind, "model": progress.model}
    common = redact_tree(_common(progress.name, engine, simulated=progress.simulated))
    stage = progress.stage
    return Snapshot(progress.name, common, [] if stage is None else list(_live(stage, int(progress.at_s))))


def _common(name: str, engine: Mapping[str, Any], *, simulated: bool) -> dict[str, Attribute]:
    return {
        "npu_harness.run": name,
        "npu_harness.simulated": simulated,
        "npu_harness.engine": str(engine.get("kind") or ""),
        "gen_ai.request.model": str(engine.get("model") or ""),
    }


def _files(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names if (folder / name).exists()]


def _stages(summary: Mapping[str, Any]) -> Iterator[Point]:
    for step, stage in enumerate(summary.get("stages") or ()):
        where: dict[str, Attribute] = {
            "npu_harness.stage": int(stage.get("index") or 0) + 1,
            "npu_harness.repeat": int(stage.get("repeat") or 0) + 1,
            "npu_harness.load": str(stage.get("label") or ""),
        }
        yield from _stage(stage, where, step)


def _stage(stage: Mapping[str, Any], where: Mapping[str, Attribute], step: int) -> Iterator[Point]:
    yield from _latencies(stage, where, step)
    for metric in (*RATES, SLO_MET):
        if stage.get(metric.key) is not None:
            yield Point(metric, float(stage[metric.key]), where, step)
    for kind in ("input", "output"):
        if stage.get(f"{kind}_tokens") is not None:
            yield Point(TOKEN_USAGE, float(stage[f"{kind}_tokens"]), {**where, "gen_ai.token.type": kind}, step)
    for outcome in ("completed", "failed", "cancelled", "never_sent"):
        if (count := (stage.get("requests") or {}).get(outcome)) is not None:
            yield Point(OUTCOMES, float(count), {**where, "npu_harness.outcome": outcome}, step)


def _latencies(stage: Mapping[str, Any], where: Mapping[str, Attribute], step: int) -> Iterator[Point]:
    """The statistics of each latency but those that are not valid themselves."""
    for metric in LATENCIES:
        values = stage.get(metric.key) or {}
        for statistic in STATISTICS:
            if values.get(statistic) is not None and statistic not in (values.get("invalid") or ()):
                yield Point(metric, float(values[statistic]), {**where, "statistic": statistic}, step)


def _kernels(summary: Mapping[str, Any]) -> Iterator[Point]:
    """The median time of a launch of each measured case and mode."""
    for step, row in enumerate((summary.get("kernels") or {}).get("rows") or ()):
        name = str(row.get("name") or row.get("path") or "")
        for mode, figures in (row.get("modes") or {}).items():
            where = {"npu_harness.case": name, "npu_harness.mode": str(mode), "statistic": "p50"}
            yield Point(KERNEL, float(figures["median_s"]), where, step)


def _study(folder: Path, study: Mapping[str, Any]) -> Snapshot:
    """The values of every trial that has some, by objective."""
    engine = {**(study.get("engine") or {}), "kind": study.get("kind")}
    common = _common(str(study["name"]), engine, simulated=bool(study.get("simulated")))
    points = [
        Point(TRIAL, float(value), _trial(name, number, trial), number)
        for number, trial in enumerate(study.get("trials") or ())
        for name, value in (trial.get("values") or {}).items()
        if isinstance(value, int | float)
    ]
    return Snapshot(str(study["name"]), common, points, _files(folder, STUDY, "report.html"))


def _trial(objective: str, number: int, trial: Mapping[str, Any]) -> dict[str, Attribute]:
    return {
        "npu_harness.objective": objective,
        "npu_harness.trial_number": int(trial.get("number", number)),
        "npu_harness.trial_status": str(trial["status"]),
    }


def _live_study(study: StudyProgress) -> Snapshot:
    """Counters of trials, the best value so far, and what the engine of the trial does."""
    run, second = study.run, int(study.at_s)
    engine = {"kind": study.engine_kind, "model": run.model if run else ""}
    where: dict[str, Attribute] = {"npu_harness.objective": study.objective}
    points = [
        Point(metric, float(value), where, second)
        for metric in LIVE_STUDY
        if (value := getattr(study, metric.key)) is not None
    ]
    if run is not None and run.stage is not None:
        points += _live(run.stage, second)
    return Snapshot(study.name, redact_tree(_common(study.name, engine, simulated=study.simulated)), points)


def _live(stage: StageProgress, second: int) -> Iterator[Point]:
    where: dict[str, Attribute] = {"npu_harness.stage": stage.index + 1, "npu_harness.repeat": stage.repeat + 1}
    for metric in LIVE:
        if (value := getattr(stage, metric.key)) is not None:
            yield Point(metric, float(value), where, second)
    for metric in LIVE_LATENCIES:
        values = getattr(stage, metric.key)
        for statistic in ("p50", "p95"):
            if (value := getattr(values, statistic)) is not None:
                yield Point(metric, value, {**where, "statistic": statistic}, second)
