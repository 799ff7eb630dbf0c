"""The result of a run in Python: its values from summary.json, shown in a notebook, drawn as a page."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.analysis.warnings import INVALID, NOTE, WARNING, Warning, warnings_of
from harness.errors import EXIT_DONE, EXIT_ENGINE, EXIT_GATE, EXIT_INTERRUPTED, EXIT_INVALID, HarnessError
from harness.execution.reconcile import finish
from harness.importers import import_file, is_foreign, name_of
from harness.messages import Message, Parameter, current_language, localized, stored
from harness.results import store
from harness.results.study import STUDY
from harness.safety.interrupts import STOPPED
from harness.scenario.stages import load_name
from harness.units import format_duration, significant

Load = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Latency:
    """One latency of a stage over its measured requests, in seconds; None where it is not known.

    `n` is the number of values, `p50` to `p99` are percentiles, `ci95` holds 95 % confidence intervals (low, high) by
    statistic, such as `ci95["p99"]`.
    """

    n: int | None = None
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    ci95: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class StageResult:
    """The numbers of one stage of one repeat.

    `load` is what was asked for (`kind` and its keys), `requests` how many ended how, `slo_met` whether it kept every
    limit of the scenario (None without limits). Rates are per second over the measured window of `window_s` seconds;
    `goodput` counts the requests that kept all limits. `ttft_user` and `e2e_user` count from when a request was due,
    `ttft` and `e2e` from when it was sent. `npu_token_rate` are output tokens/s per NPU (of the whole engine where the
    number of its NPUs is not known), `user_token_rate` tokens/s that a user sees; cost (in `currency`, that of
    price_per_hour, None where the scenario names none) and energy are None where they are not known.
    """

    index: int
    repeat: int
    label: str
    load: Load
    requests: Mapping[str, int]
    window_s: float | None = None
    request_rate: float | None = None
    output_token_rate: float | None = None
    total_token_rate: float | None = None
    goodput: float | None = None
    slo_met: bool | None = None
    mean_concurrency: float | None = None
    ttft: Latency | None = None
    ttft_user: Latency | None = None
    tpot: Latency | None = None
    itl: Latency | None = None
    e2e: Latency | None = None
    e2e_user: Latency | None = None
    npu_token_rate: float | None = None
    user_token_rate: float | None = None
    cost_per_million_output_tokens: float | None = None
    currency: str | None = None
    kwh_per_million_output_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """A result in short: the question of its scenario, the answer in the current language, its stages and warnings.

    `valid` is False where a warning is of severity invalid; `simulated` says that a simulator answered, so that no
    number is a measurement. `recommendation` says which stage to run and why; empty of a lone one. A run of kernels has
    no stages; see `Result.kernels`.
    """

    name: str
    question: str
    answer: str
    valid: bool
    simulated: bool
    stages: tuple[StageResult, ...] = ()
    warnings: tuple[Warning, ...] = ()
    recommendation: str = ""


def summary_from(summary: Mapping[str, Any]) -> Summary:
    """The summary that a summary.json of format 2 holds; `store.read_json` makes it of format 1."""
    return Summary(
        name=str(summary.get("name") or ""),
        question=str(summary.get("question") or ""),
        answer=localized(stored(summary.get("answer_message"), str(summary.get("answer") or ""))),
        valid=bool(summary["verdict"]["valid"]),
        simulated=bool(summary.get("simulated")),
        stages=tuple(_stage(stage) for stage in summary.get("stages") or ()),
        warnings=tuple(warnings_of(summary)),
        recommendation=_recommendation(summary),
    )


def _recommendation(summary: Mapping[str, Any]) -> str:
    """The decision of a summary in the current language; empty where there is nothing to choose from."""
    decision = summary.get("decision")
    several = len({stage.get("index") for stage in summary.get("stages") or ()}) > 1
    return localized(stored(decision.get("message"), str(decision.get("text")))) if decision and several else ""


_EFFICIENCY = (
    *("npu_token_rate", "user_token_rate"),
    *("cost_per_million_output_tokens", "currency", "kwh_per_million_output_tokens"),
)
_LATENCIES = ("ttft", "ttft_user", "tpot", "itl", "e2e", "e2e_user")
_PLAIN = ("window_s", "request_rate", "output_token_rate", "total_token_rate", "goodput", "slo_met")


def _stage(kept: Mapping[str, Any]) -> StageResult:
    values: dict[str, Any] = {name: kept.get(name) for name in _PLAIN}
    values |= {name: _latency(kept.get(name)) for name in _LATENCIES}
    values |= {name: (kept.get("efficiency") or {}).get(name) for name in _EFFICIENCY}
    return StageResult(
        index=kept.get("index") or 0,
        repeat=kept.get("repeat") or 0,
        label=str(kept.get("label") or ""),
        load=MappingProxyType(dict(kept.get("load") or {})),
        requests=MappingProxyType(dict(kept.get("requests") or {})),
        mean_concurrency=(kept.get("concurrency") or {}).get("mean"),
        **values,
    )


def _latency(kept: Mapping[str, Any] | None) -> Latency | None:
    if kept is None:
        return None
    intervals = {name: (ends[0], ends[1]) for name, ends in (kept.get("ci95") or {}).items() if ends}
    plain = {each.name: kept.get(each.name) for each in fields(Latency) if each.name != "ci95"}
    return Latency(**plain, ci95=MappingProxyType(intervals))


if TYPE_CHECKING:
    import pandas as pd

RESULTS = Path("results")
TRACE = "trace.json"


@dataclass(frozen=True, slots=True)
class Result:
    """A finished result folder and its numbers.

    `exit_code` says how the run ended: 0, 3 where the engine died under load, 130 where it was interrupted; `reasons`
    says why in lines of the current language. Of a result that was read they are what its files tell. `page` is
    report.html where it was drawn.
    """

    folder: Path
    summary: Summary
    page: Path | None = None
    exit_code: int = EXIT_DONE
    reasons: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether its numbers may be used: no warning is of severity invalid."""
        return self.summary.valid

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """All warnings, those of each stage included."""
        return self.summary.warnings

    @property
    def slo_met(self) -> bool:
        """Whether no stage missed a limit of the scenario."""
        return all(stage.slo_met is not False for stage in self.summary.stages)

    def status(self, *, strict: bool = False, enforce_slo: bool = False) -> int:
        """The exit code for a script: how the run ended, else 4 where it is not valid, 1 where an SLO is missed."""
        if self.exit_code == EXIT_DONE and strict and not self.valid:
            return EXIT_INVALID
        if self.exit_code == EXIT_DONE and enforce_slo and not self.slo_met:
            return EXIT_GATE
        return self.exit_code

    def requests(self) -> "pd.DataFrame":
        """A row a request; columns and units as in harness.results.request_table, -1 where there is no value.

        Raises:
            ResultError: where the folder has no records of requests, as that of kernels has none.
        """
        from harness.results.folder import request_frame  # noqa: PLC0415 - pandas loads only where a frame is wanted

        return request_frame(self.folder)

    def samples(self) -> "pd.DataFrame":
        """What was watched meanwhile, in long form: at_ns since the run's zero, source, name, value."""
        from harness.results.folder import sample_frame  # noqa: PLC0415 - likewise

        return sample_frame(self.folder)

    def kernels(self) -> "pd.DataFrame":
        """A row a sample of a run of kernels: repeat, case, path, mode, sample, launches and times in ns.

        Raises:
            ResultError: where the run was none of kernels.
        """
        from harness.results.folder import kernel_frame  # noqa: PLC0415 - likewise

        return kernel_frame(self.folder)

    def __str__(self) -> str:
        """The answer in the current language, and whether it is valid."""
        return localized("api.valid" if self.valid else "api.not_valid", answer=self.summary.answer)

    def _repr_html_(self) -> str:
        """The answer, the table of stages and the warnings, for a notebook."""
        return _html(self)


def read_result(path: "str | Path") -> Result:
    """The result in a folder of `harness run`; of a run that was killed, what it had measured until then.

    `path` may also be a result file of `vllm bench serve` or guidellm: its folder is written below `results`.

    Raises:
        ResultError: where it is no result.
    """
    folder = _imported(Path(path)) if is_foreign(Path(path)) else Path(path)
    summary = store.read_json(folder, store.SUMMARY) if (folder / store.SUMMARY).exists() else finish(folder)
    page = folder / "report.html"
    exit_code, lines = _ending(folder, summary)
    reasons = tuple(HarnessError(*lines).localized_lines())
    return Result(folder, summary_from(summary), page if page.exists() else None, exit_code, reasons)


def _ending(folder: Path, summary: Mapping[str, Any]) -> tuple[int, tuple[Message, ...]]:
    """The exit code of a run and why it ended early, as far as its files tell."""
    run = store.read_json(folder, store.RUN) if (folder / store.RUN).exists() else {}
    engine = run.get("engine") or {}
    if engine.get("died"):
        return EXIT_ENGINE, (stored(engine.get("died_message"), str(engine["died"])),)
    if run.get("interrupted") or _was_cut(summary):
        return EXIT_INTERRUPTED, (STOPPED,)
    return EXIT_DONE, ()


def _was_cut(summary: Mapping[str, Any]) -> bool:
    """Whether an end from outside left requests or cases without their turn, as of a run that was killed.

    Where requests failed, those never sent may be later turns of their sessions: that is no end.
    """
    codes = {warning.code for warning in warnings_of(summary)}
    counts = [stage.get("requests") or {} for stage in summary.get("stages") or ()]
    failed = any(count.get("failed") for count in counts)
    return "interrupted" in codes and (not failed or any(count.get("cancelled") for count in counts))


def report(result: "Result | str | Path", *, trace: bool = False) -> Path:
    """Draw the page of a result or a study in the current language, without any load; the page's path.

    With `trace` also trace.json, for Perfetto or chrome://tracing. The summary is computed again from the records.

    Raises:
        ResultError: where it is no result.
    """
    path = result.folder if isinstance(result, Result) else Path(result)
    if is_study(path):
        return draw_study(path)
    folder = _imported(path) if is_foreign(path) else path
    finish(folder)
    return draw(folder, trace=trace)


def report_index(folders: Sequence[Path]) -> Path:
    """Draw index.html, the history of several results, beside them or else in the current folder; its path.

    Raises:
        ResultError: where one of them is no finished result.
    """
    import reports  # noqa: PLC0415 - pandas and matplotlib load only where a page is drawn

    return reports.write_index(folders, current_language())


def draw(folder: Path, *, trace: bool = False) -> Path:
    """Draw report.html and its companions of a finished folder, with `trace` also trace.json; the page's path."""
    import reports  # noqa: PLC0415 - likewise

    page = reports.write_all(folder, current_language())
    if trace:
        reports.write_trace(folder)
    return page


def draw_study(folder: Path) -> Path:
    """Draw the page of a study; its path."""
    import reports  # noqa: PLC0415 - likewise

    return reports.write_study(folder, current_language())


def preload() -> None:
    """Load what `finish` and `draw` will need, so that neither waits for it at the end of a run."""
    import harness.analysis.summary  # noqa: F401, PLC0415 - loaded for later
    import reports  # noqa: PLC0415 - likewise

    reports.preload()


def is_study(path: Path) -> bool:
    """Whether a folder holds what `harness tune` found, and no run."""
    return (path / STUDY).exists() and not (path / store.RUN).exists()


def _imported(path: Path) -> Path:
    folder = store.new_folder(RESULTS, name_of(path))
    try:
        return import_file(path, folder)
    except HarnessError:
        folder.rmdir()
        raise


_HEADS = (
    "api.stage", "api.request_rate", "api.output_token_rate",
    "api.ttft_p50", "api.ttft_p99", "api.tpot_p50", "api.tpot_p99", "api.slo",
)  # fmt: skip
_SLO = {True: "api.slo_met", False: "api.slo_missed"}
_SEVERITIES = {NOTE: "api.note", WARNING: "api.warning", INVALID: "api.invalid"}


def _html(result: Result) -> str:
    summary = result.summary
    parts = [f"<p><strong>{html.escape(str(result))}</strong></p>"]
    if summary.stages:
        rows = "".join(f"<tr>{_cells('td', _row(stage))}</tr>" for stage in summary.stages)
        heads = _cells("th", [localized(code) for code in _HEADS])
        parts.append(f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>")
    shown = [warning for warning in summary.warnings if warning.severity != NOTE or warning.code == "simulated"]
    items = _cells("li", [_sentence(warning) for warning in shown])
    return "".join([*parts, f"<ul>{items}</ul>" if items else ""])


def _sentence(warning: Warning) -> str:
    severity = Message(_SEVERITIES[warning.severity])
    return localized("api.warning_line", severity=severity, text=warning.text, next=warning.next)


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)


def _row(stage: StageResult) -> list[str]:
    load = load_name(stage.load) if stage.load else stage.label
    place: dict[str, Parameter] = {"number": stage.index + 1, "load": load}
    name = (
        localized("api.repeat_of_stage", **place, repeat=stage.repeat + 1)
        if stage.repeat
        else localized("api.stage_name", **place)
    )
    times = [_duration(latency, statistic) for latency in (stage.ttft, stage.tpot) for statistic in ("p50", "p99")]
    slo = "" if stage.slo_met is None else localized(_SLO[stage.slo_met])
    return [name, _rate(stage.request_rate), _rate(stage.output_token_rate), *times, slo]


def _duration(latency: Latency | None, statistic: str) -> str:
    value: Any = getattr(latency, statistic, None)
    return "–" if value is None else format_duration(value)


def _rate(value: float | None) -> str:
    return "–" if value is None else significant(value)
