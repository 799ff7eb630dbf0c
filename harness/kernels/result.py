"""The lines of a kernel bench become kernels.parquet, kernels.csv and summary.json."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.analysis.warnings import INVALID, NOTE, WARNING, Warning
from harness.errors import ResultError
from harness.kernels.repeats import (
    FAILED,
    MEASURED,
    SKIPPED,
    WRONG,
    Row,
    case_name,
    merge_repeats,
    process_spread,
    row_reason,
    varying_axes,
)
from harness.messages import Message, message, stored
from harness.results import store, table_files
from harness.results.store import convert, json_lines
from harness.results.summary_schema import LINES_OF, LineSchema

LINES = "kernels.jsonl"
CSV = "kernels.csv"
STATUSES = (MEASURED, SKIPPED, WRONG, FAILED)
_FIGURES = ("n", "median_s", "min_s", "launch_s", "noise", "stop", "bytes_per_s", "flops_per_s")
MOST_BETWEEN = 0.02  # standard deviation between processes: what is taken for it where repeats do not tell
MOST_SHARE = 1.05  # of a measured limit; what is above by more than its own noise shows that the limit is none


def write_kernel_result(folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """Write kernels.parquet, kernels.csv and summary.json from the lines of a run; the summary.

    Raises:
        ResultError: the run ended before its first case.
    """
    path = folder / store.RAW / LINES
    if not path.exists():
        summary: dict[str, Any] = store.read_json(folder, store.SUMMARY)
        return summary
    lines = _whole_lines(path)
    device = next((line for line in lines if line["event"] == "device"), None)
    if device is None:
        raise ResultError(message("kernels.no_cases_begun", folder=str(folder)))
    rows = [_skipped(index, combination) for index, combination in enumerate(run["kernels"]["skipped"])]
    measured_rows = [_labelled(line, run["kernels"]["cases"]) for line in lines if line["event"] == "row"]
    table_files.write_kernel_samples(folder, _samples(measured_rows))
    for row in measured_rows:
        for figures in row["modes"].values():
            figures.pop("samples")
    rows += merge_repeats(measured_rows)
    differing = varying_axes(row["labels"] for row in rows)
    rows = [row | _named(case_name(row["labels"], row["path"], differing)) for row in rows]
    summary = summarize(rows, device, run)
    store.write_text(folder, CSV, csv_text(rows))
    store.write_json(folder, store.SUMMARY, summary)
    return summary


def _named(name: Message) -> Row:
    return {"name": str(name), "name_message": name.as_dict()}


def _whole_lines(path: Path) -> list[Row]:
    """All lines about the device or a case but one that a killed run left half written."""
    rows: list[Row] = []
    for place, line in json_lines(path):
        event = convert(place, line, LineSchema).event
        if event in LINES_OF:
            convert(place, line, LINES_OF[event])
            rows.append(line)
    return rows


def _skipped(index: int, combination: Mapping[str, Any]) -> Row:
    """The row of a combination that makes no case; its number is negative, so that it is no case's."""
    return {
        "case": -1 - index, "path": "", "status": SKIPPED, "reason": combination["reason"], "modes": {},
        "reason_message": combination.get("reason_message"), "labels": dict(combination["labels"]), "throttled": False,
    }  # fmt: skip


def _labelled(line: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> Row:
    fields = {key: value for key, value in line.items() if key != "event"}
    if line["case"] >= len(cases):
        raise ResultError(message("kernels.unknown_case", file=LINES, case=line["case"], cases=len(cases)))
    return {"modes": {}, "throttled": False, **fields, "labels": dict(cases[line["case"]]["labels"])}


def _samples(rows: Iterable[Row]) -> list[tuple[Any, ...]]:
    """(repeat, case, path, mode, number, launches, launch_ns, wall_ns, device_ns) of every sample."""
    return [
        (row.get("repeat", 0), row["case"], row["path"], mode, number, *sample)
        for row in rows
        for mode, figures in row["modes"].items()
        for number, sample in enumerate(figures["samples"])
    ]


def summarize(rows: Sequence[Row], device: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json: the run, its verdict, and a row for every case, path and status."""
    unturned = len(run["kernels"]["cases"]) - len({row["case"] for row in rows if row["case"] >= 0})
    warnings = [*_unturned(unturned, len(run["kernels"]["cases"])), *find_warnings(rows, device)]
    counts = Counter(row["status"] for row in rows)
    sentence = answer(rows, device, unturned)
    return {
        "format": store.SUMMARY_FORMAT,
        "name": run["name"],
        "question": run["question"],
        "answer": str(sentence),
        "answer_message": sentence.as_dict(),
        "simulated": False,
        "engine": {"kind": device["provider"], "simulated": False, "model": None, "effective": {}},
        "verdict": {
            "valid": not any(warning.severity == INVALID for warning in warnings),
            "warnings": [warning.as_dict() for warning in warnings],
        },
        "stages": [],
        "kernels": {
            "provider": device["provider"],
            "device": {key: device[key] for key in ("kind", "name", "memory_bytes", "cache_bytes", "facts")},
            "limits": device["limits"],
            "missing": device["missing"],
            "missing_messages": device.get("missing_messages") or {},
            "counts": {status: counts[status] for status in STATUSES},
            "repeats": max((row.get("repeats", 1) for row in rows), default=1),
            "between_runs": process_spread(rows),
            "rows": list(rows),
        },
    }


def answer(rows: Sequence[Row], device: Mapping[str, Any], unturned: int = 0) -> Message:
    """The result in a sentence: how much was measured, and how near the limit the best and the worst come.

    `unturned` is how many cases the run ended before.
    """
    measured = [row for row in rows if row["status"] == MEASURED]
    head: dict[str, Any] = {
        "measured": len(measured),
        "cases": len(rows) + unturned,
        "device": str(device["name"]),
        "provider": str(device["provider"]),
    }
    shares = [(share, row) for row in measured if (share := _share(row)) is not None]
    if not shares:
        return message("kernels.answer", **head)
    best, worst = max(shares, key=lambda pair: pair[0]), min(shares, key=lambda pair: pair[0])
    ends: dict[str, Any] = {
        "worst": worst[0],
        "worst_name": row_name(worst[1]),
        "best": best[0],
        "best_name": row_name(best[1]),
    }
    return message("kernels.answer_with_limits", **head, **ends)


def _share(row: Row) -> float | None:
    """Share of the measured limit that the first mode reaches."""
    figures: Mapping[str, Any] = next(iter(row["modes"].values()), {})
    share = figures.get("limits", {}).get("measured", {}).get("fraction")
    return None if share is None else float(share)


def row_name(row: Mapping[str, Any]) -> Message:
    """A case in a few words: `decode, batch 8, 2048 KV tokens, fia`, and what else differs between the run's cases."""
    if row.get("name") is None:
        return case_name(row["labels"], row["path"])
    return stored(row.get("name_message"), str(row["name"]))


def find_warnings(rows: Sequence[Row], device: Mapping[str, Any]) -> list[Warning]:
    """What a reader has to know before trusting a number."""
    if device["facts"].get("hollow"):  # all else would follow from it
        return [Warning("hollow", INVALID, message("kernels.hollow"), message("kernels.hollow_next"))]
    warnings = [*_wrong(rows), *_failed(rows), *_noisy(rows), *_differing_processes(rows), *_above_limit(rows)]
    if not any(row["status"] == MEASURED for row in rows):
        reason = next((row_reason(row) for row in rows if row.get("reason")), None)
        text = message("kernels.nothing_measured")
        if reason is not None:
            text = message("kernels.nothing_measured_because", reason=reason)
        warnings.append(Warning("nothing_measured", INVALID, text, message("kernels.nothing_measured_next")))
    return warnings


def _unturned(count: int, cases: int) -> list[Warning]:
    """Cases that an end from outside kept from their turn."""
    if not count:
        return []
    text = message("kernels.interrupted", missing=count, cases=cases)
    return [Warning("interrupted", WARNING, text, message("kernels.interrupted_next"))]


def _wrong(rows: Sequence[Row]) -> list[Warning]:
    wrong = [row for row in rows if row["status"] == WRONG]
    if not wrong:
        return []
    paths = sorted({row["path"] for row in wrong})
    first = {"name": row_name(wrong[0]), "reason": row_reason(wrong[0])}
    text = message("kernels.wrong_kernel", cases=len(wrong), paths=paths, **first)
    return [Warning("wrong_kernel", INVALID, text, message("kernels.wrong_kernel_next"))]


def _failed(rows: Sequence[Row]) -> list[Warning]:
    failed = [row for row in rows if row["status"] == FAILED]
    if not failed:
        return []
    reason = row_reason(failed[0])
    text = message("kernels.failed_case", cases=len(failed), name=row_name(failed[0]), reason=reason)
    return [Warning("failed_case", WARNING, text, message("kernels.failed_case_next"))]


def _noisy(rows: Sequence[Row]) -> Iterator[Warning]:
    """Noisy and throttled measurements, a warning of each kind with how many there are."""
    series = [figures for row in rows for figures in row["modes"].values()]
    marks = Counter(mark for figures in series for mark in set(figures["marks"]))
    total = len(series)
    if noisy := marks["noisy"]:
        text = message("kernels.noisy_kernel", noisy=noisy, measurements=total)
        yield Warning("noisy_kernel", WARNING, text, message("kernels.noisy_kernel_next"))
    if crowded := marks["crowded"]:
        text = message("kernels.crowded_kernel", crowded=crowded, measurements=total)
        yield Warning("crowded_kernel", WARNING, text, message("kernels.crowded_kernel_next"))
    if throttled := sum(bool(row["throttled"]) for row in rows):
        text = message("kernels.device_throttled", cases=throttled)
        yield Warning("device_throttled", WARNING, text, message("kernels.device_throttled_next"))
    if bound := marks["launch-bound"]:
        text = message("kernels.launch_bound", bound=bound, measurements=total)
        yield Warning("launch_bound", NOTE, text, message("kernels.launch_bound_next"))


def _differing_processes(rows: Sequence[Row]) -> list[Warning]:
    """Processes that differ more from each other than a comparison of single ones takes them to."""
    spread = process_spread(rows)
    if spread is None or spread <= MOST_BETWEEN:
        return []
    text = message("kernels.processes_differ", spread=spread)
    return [Warning("processes_differ", WARNING, text, message("kernels.processes_differ_next"))]


def _above_limit(rows: Sequence[Row]) -> list[Warning]:
    """Cold measurements above the limit of the same run: then it was not the limit."""
    cold = [figures for row in rows for mode, figures in row["modes"].items() if mode == "cold"]
    shares = [figures.get("limits", {}).get("measured", {}).get("fraction") or 0.0 for figures in cold]
    above = [share for share in shares if share > MOST_SHARE]
    if not above:
        return []
    text = message("kernels.limit_beaten", above=len(above), measurements=len(cold), share=max(above))
    return [Warning("limit_beaten", WARNING, text, message("kernels.limit_beaten_next"))]


def csv_text(rows: Sequence[Row]) -> str:
    """A line for each case, path and mode; the axes, then the figures."""
    axes = list(dict.fromkeys(name for row in rows for name in row["labels"]))
    limits = [f"{source}_{key}" for source in ("measured", "chip") for key in ("bound", "fraction", "gap_s")]
    heads = ["case", "path", "status", "reason", *axes, "mode", *_FIGURES, "ci_low_s", "ci_high_s", *limits]
    heads += ["marks", "throttled", "repeats", "between_runs", "worst_error", "typical_error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for mode, figures in (row["modes"] or {"": {}}).items():
            writer.writerow(_csv_row(row, mode, figures))
    return text.getvalue()


def _csv_row(row: Row, mode: str, figures: Mapping[str, Any]) -> Row:
    low, high = figures.get("ci95_s") or ("", "")
    errors = row.get("errors") or {}
    flat: Row = {name: row[name] for name in ("case", "path", "status", "throttled")} | row["labels"]
    flat |= {"reason": row.get("reason") or "", "mode": mode, "ci_low_s": low, "ci_high_s": high}
    flat |= {name: figures.get(name, "") for name in _FIGURES}
    flat |= {
        f"{source}_{key}": limits[key]
        for source, limits in figures.get("limits", {}).items()
        for key in ("bound", "fraction", "gap_s")
    }
    flat |= {"marks": " ".join(figures.get("marks", ())), "repeats": len(figures.get("repeats", ())) or ""}
    flat |= {"between_runs": "" if figures.get("between_runs") is None else figures["between_runs"]}
    return flat | {"worst_error": errors.get("worst", ""), "typical_error": errors.get("typical", "")}
