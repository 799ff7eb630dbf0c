"""What do the lines of a kernel bench become: kernels.parquet, kernels.csv and summary.json?"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    varying_axes,
)
from harness.messages import plain
from harness.results import store
from harness.results.kernel_schema import LINES_OF, LineSchema
from harness.results.store import convert, json_lines
from harness.units import format_share

LINES = "kernels.jsonl"
CSV = "kernels.csv"
STATUSES = (MEASURED, SKIPPED, WRONG, FAILED)
_FIGURES = ("n", "median_s", "min_s", "launch_s", "noise", "stop", "bytes_per_s", "flops_per_s")
MOST_BETWEEN = 0.02  # standard deviation between processes: what is taken for it where repeats do not tell
MOST_SHARE = 1.05  # of a measured limit; what is above by more than its own noise shows that the limit is none


def is_kernels(run: Mapping[str, Any]) -> bool:
    """Whether run.json is that of a kernel bench."""
    return "kernels" in run


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
        raise ResultError(f"{folder}: the run ended before its first case; there is nothing to report")
    rows = [_skipped(index, combination) for index, combination in enumerate(run["kernels"]["skipped"])]
    measured_rows = [_labelled(line, run["kernels"]["cases"]) for line in lines if line["event"] == "row"]
    store.write_kernel_samples(folder, _samples(measured_rows))
    for row in measured_rows:
        for figures in row["modes"].values():
            figures.pop("samples")
    rows += merge_repeats(measured_rows)
    differing = varying_axes(row["labels"] for row in rows)
    rows = [row | {"name": case_name(row["labels"], row["path"], differing)} for row in rows]
    summary = summarize(rows, device, run)
    store.write_text(folder, CSV, csv_text(rows))
    store.write_json(folder, store.SUMMARY, summary)
    return summary


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
        "labels": dict(combination["labels"]), "throttled": False,
    }  # fmt: skip


def _labelled(line: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> Row:
    fields = {key: value for key, value in line.items() if key != "event"}
    if line["case"] >= len(cases):
        raise ResultError(f"{LINES}: case {line['case']} of {len(cases)}; expected a case of run.json")
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
    return {
        "format": store.SUMMARY_FORMAT,
        "name": run["name"],
        "question": run["question"],
        "answer": answer(rows, device, unturned),
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
            "counts": {status: counts[status] for status in STATUSES},
            "repeats": max((row.get("repeats", 1) for row in rows), default=1),
            "between_runs": process_spread(rows),
            "rows": list(rows),
        },
    }


def answer(rows: Sequence[Row], device: Mapping[str, Any], unturned: int = 0) -> str:
    """The result in a sentence: how much was measured, and how near the limit the best and the worst come.

    `unturned` is how many cases the run ended before.
    """
    measured = [row for row in rows if row["status"] == MEASURED]
    head = f"{len(measured)} of {len(rows) + unturned} cases measured on {device['name']} with {device['provider']}"
    shares = [(share, row) for row in measured if (share := _share(row)) is not None]
    if not shares:
        return f"{head}."
    best, worst = max(shares, key=lambda one: one[0]), min(shares, key=lambda one: one[0])
    return (
        f"{head}: {format_share(worst[0])} of the measured limit at worst ({row_name(worst[1])}), "
        f"{format_share(best[0])} at best ({row_name(best[1])})."
    )


def _share(row: Row) -> float | None:
    """Share of the measured limit that the first mode reaches."""
    figures: Mapping[str, Any] = next(iter(row["modes"].values()), {})
    share = figures.get("limits", {}).get("measured", {}).get("fraction")
    return None if share is None else float(share)


def row_name(row: Mapping[str, Any]) -> str:
    """A case in a few words: `decode, batch 8, 2048 KV tokens, fia`, and what else differs between the run's cases."""
    return str(row.get("name") or case_name(row["labels"], row["path"]))


def find_warnings(rows: Sequence[Row], device: Mapping[str, Any]) -> list[Warning]:
    """What a reader has to know before believing a number."""
    if device["facts"].get("hollow"):  # all else would follow from it
        text = "The device is a stand-in that computes nothing: results were wrong, and nothing was timed."
        return [Warning("hollow", INVALID, plain(text), plain("Run the same scenario on a real NPU with its CANN."))]
    found = [*_wrong(rows), *_lost(rows), *_unquiet(rows), *_unlike_runs(rows), *_beaten(rows)]
    if not any(row["status"] == MEASURED for row in rows):
        reason = next((f" (first: {row['reason']})" for row in rows if row.get("reason")), "")
        text = f"No case was measured{reason}."
        found.append(Warning("nothing_measured", INVALID, plain(text), plain("See the table for each reason.")))
    return found


def _unturned(count: int, cases: int) -> list[Warning]:
    """Cases that an end from outside kept from their turn."""
    if not count:
        return []
    text = f"{count} of {cases} cases had no turn: the run was ended before."
    return [Warning("interrupted", WARNING, plain(text), plain("Let it run to its end, or ask for fewer cases."))]


def _wrong(rows: Sequence[Row]) -> list[Warning]:
    wrong = [row for row in rows if row["status"] == WRONG]
    if not wrong:
        return []
    paths = ", ".join(sorted({row["path"] for row in wrong}))
    text = f"{len(wrong)} cases gave wrong results and were not timed ({paths}; first: {row_name(wrong[0])}: "
    text += f"{wrong[0]['reason']})."
    return [
        Warning(
            "wrong_kernel", INVALID, plain(text), plain("Do not serve with these kernels; report them to their vendor.")
        )
    ]


def _lost(rows: Sequence[Row]) -> list[Warning]:
    lost = [row for row in rows if row["status"] == FAILED]
    if not lost:
        return []
    text = f"{len(lost)} cases failed (first: {row_name(lost[0])}: {lost[0]['reason']})."
    return [
        Warning("failed_case", WARNING, plain(text), plain("See engine.log; the other cases are not touched by it."))
    ]


def _unquiet(rows: Sequence[Row]) -> list[Warning]:
    """Noisy and throttled measurements, each told once with how many there are."""
    series = [figures for row in rows for figures in row["modes"].values()]
    found = []
    noisy = sum("noisy" in figures["marks"] for figures in series)
    if noisy:
        text = f"{noisy} of {len(series)} measurements stayed noisier than asked for."
        found.append(
            Warning("noisy_kernel", WARNING, plain(text), plain("Leave the machine alone, or give kernels.time more."))
        )
    crowded = sum("crowded" in figures["marks"] for figures in series)
    if crowded:
        text = f"In {crowded} of {len(series)} measurements a thread waited for a core that another process had."
        found.append(
            Warning(
                "crowded_kernel",
                WARNING,
                plain(text),
                plain("Leave the machine alone: such times are too long, however alike."),
            )
        )
    slowed = sum(bool(row["throttled"]) for row in rows)
    if slowed:
        text = f"The device's clock fell during {slowed} cases."
        found.append(
            Warning(
                "device_throttled", WARNING, plain(text), plain("Cool the device, or fix its clock, and run again.")
            )
        )
    bound = sum("launch-bound" in figures["marks"] for figures in series)
    if bound:
        text = f"In {bound} of {len(series)} measurements the device waited for the host to launch."
        found.append(
            Warning("launch_bound", NOTE, plain(text), plain("Compare with modes: graph, which takes the host out."))
        )
    return found


def _unlike_runs(rows: Sequence[Row]) -> list[Warning]:
    """Processes that differ more from each other than a comparison of single ones takes them to."""
    spread = process_spread(rows)
    if spread is None or spread <= MOST_BETWEEN:
        return []
    text = f"Processes that measured the same differ by {format_share(spread)} (standard deviation over all cases)."
    return [Warning("processes_differ", WARNING, plain(text), plain("Leave the machine alone, or raise repeats."))]


def _beaten(rows: Sequence[Row]) -> list[Warning]:
    """Cold measurements above the limit of the same run: then it was not the limit."""
    cold = [figures for row in rows for mode, figures in row["modes"].items() if mode == "cold"]
    shares = [figures.get("limits", {}).get("measured", {}).get("fraction") or 0.0 for figures in cold]
    above = [share for share in shares if share > MOST_SHARE]
    if not above:
        return []
    text = f"{len(above)} of {len(cold)} cold measurements are above the limit measured in this run, by up to "
    text += f"{format_share(max(above))} of it: the device was not left alone while its limits were measured."
    return [
        Warning(
            "limit_beaten",
            WARNING,
            plain(text),
            plain("Leave the machine alone and run again; trust times before shares."),
        )
    ]


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
