"""The result of a run in Python: read from its folder, shown in a notebook, drawn as a page."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.warnings import INVALID, NOTE, WARNING, Warning, warnings_of
from harness.api.summary import Latency, StageResult, Summary, summary_from
from harness.errors import EXIT_DONE, EXIT_ENGINE, EXIT_GATE, EXIT_INTERRUPTED, EXIT_INVALID, HarnessError
from harness.execution.reconcile import finish
from harness.importers import import_file, is_foreign, name_of
from harness.messages import Message, Parameter, current_language, localized, stored
from harness.results import store
from harness.results.study import STUDY
from harness.safety.interrupts import STOPPED
from harness.scenario.stages import load_name
from harness.units import format_duration, significant

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
