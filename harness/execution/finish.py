"""How does a folder of raw files become a result: account, summary, page?

Works from files alone: right after a run, for a run that was killed, or a year later.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import ResultError
from harness.kernels import result as kernel_result
from harness.results import store
from harness.results.stage_names import stage_name


def finish(folder: Path) -> dict[str, Any]:
    """Write the account (where it is still missing) and summary.json of a result folder; the summary.

    Raises:
        ResultError: where the folder holds neither an account nor the raw files of one.
    """
    from harness.analysis.summary import summarize  # noqa: PLC0415 - likewise
    from harness.engines.attach import record_server_marks  # noqa: PLC0415 - likewise
    from harness.execution.reconcile import settle  # noqa: PLC0415 - pyarrow and numpy load only where a result is written

    run = store.read_run(folder)
    raw = folder / store.RAW
    if kernel_result.is_kernels(run):
        found = kernel_result.finish(folder, run)
        shutil.rmtree(raw, ignore_errors=True)
        return found
    if not (folder / store.REQUESTS).exists() or not (folder / store.EVENTS).exists():
        if not (raw / "plan.npz").exists():
            return _kept(folder)
        _know_secrets(raw)
        settle(folder)
        record_server_marks(folder)
        run = store.read_run(folder)
    timeline = store.read_json(folder, store.TIMELINE) if (folder / store.TIMELINE).exists() else []
    summary = summarize(
        store.read_requests(folder), store.read_events(folder), store.read_samples(folder), timeline, run
    )
    store.write_json(folder, store.SUMMARY, summary)
    shutil.rmtree(raw, ignore_errors=True)
    return summary


def _know_secrets(raw: Path) -> None:
    """Note the secrets that the requests carried, where this process has them too: a server may have told them."""
    from harness.client.reaching import know_again  # noqa: PLC0415 - pydantic loads only where raw files are read

    if (raw / "job.json").exists():
        know_again(store.read_json(raw, "job.json").get("reach") or {})


def _kept(folder: Path) -> dict[str, Any]:
    """The summary of a folder without records: another tool kept none, or they were not kept with it."""
    if not (folder / store.SUMMARY).exists():
        raise ResultError(f"{folder}: the run ended before its first request; there is nothing to report")
    found: dict[str, Any] = store.read_json(folder, store.SUMMARY)
    return found


def draw(folder: Path, language: str = "en") -> Path:
    """Draw report.html and its companions from a finished folder in a language; the page's path."""
    import reports  # noqa: PLC0415 - a room of its own: pandas and matplotlib load only where a page is drawn

    return reports.write_all(folder, language)


def trace(folder: Path) -> Path:
    """Write trace.json of a finished folder, for Perfetto; its path."""
    import reports  # noqa: PLC0415 - likewise

    return reports.write_trace(folder)


def preload() -> None:
    """Load what `finish` and `draw` will need, so that neither waits for it at the end."""
    import harness.analysis.summary  # noqa: F401, PLC0415 - loaded for later
    import reports  # noqa: PLC0415 - likewise

    reports.preload()


def verdict_lines(summary: Mapping[str, Any]) -> list[str]:
    """The answer, the verdict and the doubts as lines for a terminal."""
    verdict = summary["verdict"]
    lines = [summary["answer"]]
    lines.append("valid" if verdict["valid"] else "NOT VALID")
    labels = {stage.get("index"): str(stage.get("label", "")) for stage in summary.get("stages") or ()}
    for doubt in verdict["doubts"]:
        stage = doubt.get("stage")
        place = "" if stage is None else f", {stage_name(stage, labels.get(stage, ''), doubt.get('repeat') or 0)}"
        lines.append(f"{doubt['severity']}{place}: {doubt['text']} {doubt['next']}")
    return lines
