"""Names of kernel cases, and the processes that measured the same cases, one after another."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.messages import Message, message, plain, stored
from harness.messages.message import Parameter
from harness.statistics.intervals import CONFIDENCE, student_t

Labels = Mapping[str, Any]
_AXES: Mapping[str, str] = {
    "batch": "kernels.axis_batch",
    "query_tokens": "kernels.axis_query_tokens",
    "kv_tokens": "kernels.axis_kv_tokens",
    "step": "",
    "block_size": "kernels.axis_block_size",
    "model": "",
    "tensor_parallel_size": "kernels.axis_tensor_parallel",
    "dtype": "",
    "order": "",
}  # in the order in which they are said; those without a code are said by their value alone
ALWAYS_NAMED = ("batch", "kv_tokens", "step", "block_size")


def varying_axes(cases: Iterable[Labels]) -> frozenset[str]:
    """The axes by which these cases differ: without them two of them would have one name."""
    values_by_axis: dict[str, set[Any]] = {}
    for labels in cases:
        for name, value in labels.items():
            values_by_axis.setdefault(name, set()).add(value)
    return frozenset(name for name, values in values_by_axis.items() if len(values) > 1)


def axes_label(labels: Labels, axes: Collection[str]) -> Message:
    """`batch 8, 2048 KV tokens, block size 32`: these axes of a case, those that it has."""
    return message("text.list", items=_axis_words(labels, axes))


def case_name(labels: Labels, path: str, differing: Collection[str] = ()) -> Message:
    """`decode, batch 8, 2048 KV tokens, block size 32, fia`; `differing` axes are said, too."""
    phase = str(labels.get("phase", ""))
    parts = (phase, *_axis_words(labels, {*ALWAYS_NAMED, *differing}), path)
    return message("text.list", items=[part for part in parts if part])


def _axis_words(labels: Labels, axes: Collection[str]) -> list[Parameter]:
    return [
        Message(code, {"value": labels[name]}) if code else str(labels[name])
        for name, code in _AXES.items()
        if name in axes and name in labels
    ]


MEASURED, SKIPPED, WRONG, FAILED = "measured", "skipped", "wrong", "failed"
_WORST = (WRONG, FAILED, SKIPPED)  # what makes a case of several repeats not measured, the most telling first
Row = dict[str, Any]


def row_reason(row: Mapping[str, Any]) -> Message:
    """Why a row is not measured; what an earlier version or somebody else's provider wrote as text stays that text."""
    kept, text = row.get("reason_message"), str(row.get("reason") or "")
    return stored(kept, text) if kept else plain(text)


def reason_fields(reason: Message) -> Row:
    """A reason as a row keeps it: its English text, and the message."""
    return {"reason": str(reason), "reason_message": reason.as_dict()}


def merge_repeats(rows: Iterable[Row]) -> list[Row]:
    """A row for each case and path, from those of each repeat; what one repeat lost or found wrong is not measured."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["path"]), []).append(row)
    return [_merged(group) for group in groups.values()]


def _merged(group: Sequence[Row]) -> Row:
    first = {key: value for key, value in group[0].items() if key != "repeat"}
    lost = next((row for status in _WORST for row in group if row["status"] == status), None)
    if lost is not None:
        reason = row_reason(lost)
        if len({row["status"] for row in group}) > 1:
            reason = message("kernels.in_repeat", repeat=lost.get("repeat", 0) + 1, reason=reason)
        fields = {key: value for key, value in lost.items() if key != "repeat"}
        return fields | {**reason_fields(reason), "modes": {}}
    modes = [mode for mode in first["modes"] if all(mode in row["modes"] for row in group)]
    return first | {
        "modes": {mode: _pooled([row["modes"][mode] for row in group]) for mode in modes},
        "throttled": any(row["throttled"] for row in group),
        "waited": max(row.get("waited", 0.0) for row in group),
        "errors": max((row["errors"] for row in group), key=lambda errors: errors["worst"] or 0.0),
        "repeats": len(group),
    }


def _pooled(series: Sequence[Mapping[str, Any]]) -> Row:
    """One mode's figures over its repeats; of a single one they are its own."""
    runs = [{key: figures[key] for key in ("n", "median_s", "ci95_s")} for figures in series]
    first = dict(series[0]) | {"repeats": runs, "between_runs": None}
    if len(series) == 1:
        return first
    logs = np.log([figures["median_s"] for figures in series])
    seconds, spread = float(np.exp(logs.mean())), float(logs.std(ddof=1))
    reach = student_t((1 + CONFIDENCE) / 2, len(logs) - 1) * spread / math.sqrt(len(logs))
    faster = first["median_s"] / seconds
    return first | {
        "n": sum(figures["n"] for figures in series),
        "median_s": seconds,
        "ci95_s": [seconds * math.exp(-reach), seconds * math.exp(reach)],
        "between_runs": spread,
        "min_s": min(figures["min_s"] for figures in series),
        "launch_s": float(np.median([figures["launch_s"] for figures in series])),
        "noise": _most(series, "noise"),
        "marks": list(dict.fromkeys(mark for figures in series for mark in figures["marks"])),
        "bytes_per_s": first["bytes_per_s"] * faster,
        "flops_per_s": first["flops_per_s"] * faster,
        "limits": {source: _held(limits, seconds) for source, limits in first["limits"].items()},
    }


def _most(series: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [figures[key] for figures in series]
    return None if None in values else max(values)


def _held(limits: Mapping[str, Any], seconds: float) -> Row:
    """The distance from a limit, of another time."""
    ideal_s = limits["ideal_s"]
    return {**limits, "fraction": ideal_s / seconds, "gap_s": seconds - ideal_s}


def process_spread(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """By which share processes differ on one case: the root of the mean square over all cases; None: one process."""
    spreads = [figures.get("between_runs") for row in rows for figures in row["modes"].values()]
    squares = [spread**2 for spread in spreads if spread is not None]
    return math.sqrt(sum(squares) / len(squares)) if squares else None
