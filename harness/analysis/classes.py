"""Figures by request class, what answer forms, images and documents came to, and what adapters cost.

A class is what requests have in common: the model or adapter they name, their priority, whether their answers have a
form. Its figures count the same requests as those of the stage, those of the class alone. What adapters cost is told by
stages of one load that differ in how many take part: against the model alone, whose requests came at the same times.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from harness.analysis.metrics import RequestMasks, StageInput, StageSummary, latencies, request_masks
from harness.analysis.token_gaps import Mask
from harness.messages import Message, Parameter, message, plain
from harness.results.request_table import MISSING
from harness.scenario.metrics import ANSWER_TIMES, NAMES, USER_VIEW
from harness.scenario.stages import stage_title
from harness.statistics.distributions import distribution

MODEL, PRIORITY, FORM = "model", "priority", "form"
TRAITS = (MODEL, PRIORITY, FORM)
_METRICS = ("ttft", "tpot", "e2e")
COSTS = ("ttft_p50", "tpot_p50", "output_token_rate")
"""What adapters are told to cost by."""
Stage = Mapping[str, Any]  # of summary.json
_MOST_CLASSES = 4  # that the answer tells one by one
_FORM_CODES = {"structured": "analysis.class_structured", "tools": "analysis.class_tools"}


def kind_figures(stage: StageInput, summary: StageSummary, run: Mapping[str, Any]) -> dict[str, Any]:
    """What summary.json has of a stage beside what every stage has, for requests of these kinds.

    `input_token_rate`, `document_rate` and `documents` of answers without tokens, whose token rates are null;
    `reasoning_tokens`; `image_tokens` and `sent_bytes` of requests with images; `forms` (`held`, `kept`); `classes`.
    """
    masks = request_masks(stage.requests, summary.window, summary.span)
    figures: dict[str, Any] = {}
    if summary.is_pooled:
        figures |= _pooled(summary)
    if summary.reasoning_tokens:
        figures["reasoning_tokens"] = summary.reasoning_tokens
    if run.get("images"):
        figures |= {name: _sum_of(stage, masks.sent, name) for name in ("image_tokens", "sent_bytes")}
    if forms := _forms(stage, masks):
        figures["forms"] = forms
    if classes := list(_classes(stage, summary, masks, run)):
        figures["classes"] = classes
    return figures


def _pooled(summary: StageSummary) -> dict[str, Any]:
    """Rates of answers without tokens, of the same requests as every rate; rates of output tokens say nothing."""
    length_s, counted = summary.window.rates_s, summary.counted
    nothing = dict.fromkeys(("output_token_rate", "arrived_token_rate", "total_token_rate", "event_rate"))
    known = summary.rates.request is not None and length_s > 0
    return {
        **nothing,
        "input_token_rate": counted.input_tokens / length_s if known else None,
        "document_rate": counted.documents / length_s if known else None,
        "documents": counted.documents,
    }


def _sum_of(stage: StageInput, chosen: Mask, name: str) -> int | None:
    """The sum of a column over some rows; None where no row has a value."""
    values = getattr(stage.requests, name)[chosen]
    return int(values[values != MISSING].sum()) if (values != MISSING).any() else None


def _forms(stage: StageInput, masks: RequestMasks) -> dict[str, Any]:
    """How many answers were held to a form, and how many keep it; of those that latencies count."""
    valid = stage.requests.valid[masks.answered]
    held, kept = int((valid != MISSING).sum()), int((valid == 1).sum())
    return {"held": held, "kept": kept} if held else {}


def _classes(
    stage: StageInput, summary: StageSummary, masks: RequestMasks, run: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """For each trait in which requests differ, each of its values with the figures of its requests."""
    classes: Sequence[Mapping[str, Any]] = run.get("classes") or ()
    for trait in TRAITS:
        values = list(dict.fromkeys(each.get(trait) for each in classes))
        for value in values if len(values) > 1 else ():
            numbers = [number for number, each in enumerate(classes) if each.get(trait) == value]
            own = np.isin(stage.requests.request_class, numbers)
            if (own & masks.sent).any():
                yield {"by": trait, "name": _name(trait, value, run), **_figures(stage, summary, masks, own)}


def _name(trait: str, value: Any, run: Mapping[str, Any]) -> str:
    """How a class is called: a model without a name of its own is the engine's; no form is none."""
    if trait == MODEL:
        return str(value or (run.get("engine") or {}).get("model") or "")
    return "" if value is None else str(value)


def _figures(stage: StageInput, summary: StageSummary, masks: RequestMasks, own: Mask) -> dict[str, Any]:
    requests, length_s = stage.requests, summary.window.rates_s
    times = latencies(requests, stream=stage.stream)
    ended, answered = masks.ended & own, masks.answered & own
    rates = {"request_rate": int(ended.sum()), "output_token_rate": int(requests.output_tokens[ended].sum())}
    figures: dict[str, Any] = {
        "sent": int((masks.sent & own).sum()),
        "completed": int(answered.sum()),
        "failed": int((masks.failed & own).sum()),
        **{name: count / length_s if length_s > 0 else None for name, count in rates.items()},
    }
    for metric in _METRICS:
        view = USER_VIEW.get(metric, metric) if summary.is_open else metric
        values = times[view][answered]
        if not np.isnan(values).all():
            columns = asdict(distribution(values[~np.isnan(values)]))
            figures[view] = {name: columns[name] for name in ("n", "mean", "p50", "p90", "p99")} | {
                "ci95": {name: list(ends) for name, ends in columns["ci95"].items()}
            }
    forms = _forms(stage, RequestMasks(masks.sent, answered, masks.failed, ended, masks.over))
    return figures | ({"forms": forms} if forms else {})


def adapter_costs(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """What adapters cost, for summary.json: of each load that was run with 0 and more of them, a row a stage.

    A row has `stage`, `adapters`, the values of `COSTS`, and against the row of 0 their `change` (a share, null for
    that row), which of them are `clear`: the 95 % intervals of both do not meet, and which are `unsure`: there are no
    intervals, for want of answers.
    """
    groups: dict[str, list[Stage]] = {}
    for stage in stages:
        load = dict(stage.get("load") or {})
        if load.pop("adapters", None) is not None and not stage.get("repeat"):
            groups.setdefault(repr(sorted(load.items(), key=str)), []).append(stage)
    rows: list[dict[str, Any]] = []
    for same in groups.values():
        base = next((stage for stage in same if stage["load"]["adapters"] == 0), None)
        if base is not None and len(same) > 1:
            rows += [_cost(stage, base) for stage in sorted(same, key=lambda stage: stage["load"]["adapters"])]
    return rows


def _cost(stage: Stage, base: Stage) -> dict[str, Any]:
    values, before = _values(stage), _values(base)
    change = {
        name: values[name][0] / before[name][0] - 1 for name in COSTS if values[name][0] is not None and before[name][0]
    }
    clear = [name for name in change if _apart(values[name][1], before[name][1])]
    unsure = [name for name in change if not (values[name][1] and before[name][1])]
    return {
        "stage": stage.get("index", 0),
        "adapters": stage["load"]["adapters"],
        **{name: value for name, (value, _) in values.items()},
        "change": None if stage is base else change,
        "clear": [] if stage is base else clear,
        "unsure": [] if stage is base else unsure,
    }


def _values(stage: Stage) -> dict[str, tuple[Any, Any]]:
    """Value and 95 % interval of what adapters are told to cost by."""
    pairs: dict[str, tuple[Any, Any]] = {}
    for name in COSTS:
        metric, _, statistic = name.rpartition("_")
        if metric in _METRICS:
            values = stage.get(metric) or {}
            pairs[name] = values.get(statistic), (values.get("ci95") or {}).get(statistic)
        else:
            pairs[name] = stage.get(name), (stage.get("rates_ci95") or {}).get(name)
    return pairs


def _apart(own: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    return own is not None and other is not None and (own[1] < other[0] or other[1] < own[0])


def adapters_sentence(rows: Sequence[Mapping[str, Any]]) -> Message | None:
    """What the most adapters cost at the last load that was run with and without them; None where none was."""
    last = rows[-1] if rows else None
    if last is None or last["change"] is None or "tpot_p50" not in last["change"]:
        return None
    return message(
        "analysis.adapters_cost",
        count=last["adapters"],
        tpot=change_of(last, "tpot_p50"),
        ttft=change_of(last, "ttft_p50"),
    )


def classes_sentences(stages: Sequence[Stage]) -> Iterator[Message]:
    """For each trait what TTFT and TPOT of its classes are at the highest load that has them, a sentence a trait.

    `stages` are those of summary.json that are valid, in the order of their load. Of more than four classes the
    fastest and the slowest by TTFT are told; classes whose answers have no tokens are not.
    """
    for trait in TRAITS:
        own = [(stage, rows) for stage in stages if len(rows := _timed(stage, trait)) > 1]
        if not own:
            continue
        stage, rows = own[-1]
        head = message("analysis.by_class")
        if len(rows) > _MOST_CLASSES:
            ordered = sorted(rows, key=lambda row: _ttft(row)["p50"])
            head = message("analysis.by_class_ends", count=len(rows))
            rows = [ordered[0], ordered[-1]]
        words: dict[str, Parameter] = {"head": head, "classes": [_class_times(trait, row) for row in rows]}
        if len(stages) == 1:
            yield message("analysis.classes", **words)
        else:
            yield message("analysis.classes_at", level=stage_title(stage.get("index", 0), stage), **words)


def _timed(stage: Stage, trait: str) -> list[Stage]:
    """The classes of a stage by one trait of which TTFT is known."""
    return [row for row in stage.get("classes") or () if row["by"] == trait and _ttft(row).get("p50") is not None]


def _ttft(row: Stage) -> Stage:
    return row.get("ttft_user") or row.get("ttft") or {}


def _class_times(trait: str, row: Stage) -> Message:
    """`priority 0: TTFT p50 513 ms, p99 2.03 s, TPOT p50 21.0 ms`; what is not known is left out."""
    ttft, tpot_s = _ttft(row), (row.get("tpot") or {}).get("p50")
    metric = "ttft_user" if "ttft_user" in row else "ttft"
    times: list[Parameter] = [
        message("analysis.class_times", metric=NAMES[metric], p50_s=ttft["p50"], p99_s=ttft["p99"])
    ]
    if tpot_s is not None:
        times.append(message("analysis.class_time", metric=NAMES["tpot"], p50_s=tpot_s))
    name = str(row["name"])
    own = message(_FORM_CODES.get(name, "analysis.class_free"))
    if trait != FORM:
        own = message("analysis.class_priority", name=name) if trait == PRIORITY else plain(name)
    return message("analysis.class_figures", own=own, times=times)


def change_of(row: Mapping[str, Any], name: str) -> Message:
    """By how much a value of a row differs from that of the model alone, and how sure that is."""
    change = (row.get("change") or {}).get(name)
    if change is None:
        return message("analysis.change_none")
    if name in row["clear"]:
        return message("analysis.change_clear", change=100 * change)
    unsure = name in row["unsure"]
    return message("analysis.change_unsure" if unsure else "analysis.change_meets", change=100 * change)


def tells(summary: StageSummary, metric: str) -> bool:
    """Whether a latency says something of its own: that of the answer does where answers reason or it is limited."""
    if metric not in ANSWER_TIMES or summary.reasoning_tokens:
        return True
    return any(outcome.objective.metric == metric for outcome in summary.outcomes)


def documents_sentence(level: Message, stage: StageSummary) -> Message:
    """What was embedded or scored in one stage, and how long a request took."""
    values, length_s = stage.metrics["e2e"], stage.window.rates_s
    known = stage.rates.request is not None and length_s > 0
    rates: dict[str, Parameter] = {
        "documents": stage.counted.documents / length_s if known else None,
        "tokens": stage.counted.input_tokens / length_s if known else None,
    }
    times: dict[str, Parameter] = {"metric": NAMES["e2e"], "p50_s": values.p50, "p99_s": values.p99}
    if stage.account.failed:
        return message("analysis.answer_documents_failed", level=level, failed=stage.account.failed, **rates, **times)
    return message("analysis.answer_documents", level=level, **rates, **times)
