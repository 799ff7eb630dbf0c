"""Several results beside each other: which may be compared, what each comes to, and which one to run.

Results stand in one decision where they did the same work, as long, under the same limits and clock, and all were
measured, or all simulated, or all made on a stub device: a simulated number is never held against a measured one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.analysis.decision import Decision, Option, decide
from harness.analysis.steady_state import is_open
from harness.clock import REAL_TIME
from harness.messages import Message, localized, message
from reports.decision import (
    Choice,
    choice_of,
    draw_plane,
    place_of,
    slo_edge,
    tip_of,
    upward_title,
    user_formula,
    user_interval,
)
from reports.figures.decision import Place, Plane
from reports.figures.style import Head
from reports.loads import short_labels
from reports.palette import stage_colour
from reports.svg import Drawing
from reports.texts import paragraph

MEASURED, SIMULATED, STUB = "measured", "simulated", "stub"
SOURCES = {MEASURED: "page_index.measured", SIMULATED: "page_index.simulated", STUB: "page_index.stub"}


_PARTS = (
    "page_index.part_source",
    "page_index.part_clock",
    "page_index.part_requests",
    "page_index.part_limits",
    "page_index.part_loads",
    "page_index.part_npus",
    "page_index.part_user_rate",
)
"""What the parts of a result's work are, in order."""


@dataclass(frozen=True, slots=True)
class ResultOptions:
    """One result: its name, run.json, and the options that it gives."""

    name: str
    run: Mapping[str, Any]
    choice: Choice
    source: str

    @property
    def work(self) -> tuple[str, ...]:
        """What two results must have in common to stand in one decision, as `_PARTS` names it.

        Whose requests are known by their hash may have any name.
        """
        sent = str(self.run.get("payload_sha256") or self.run.get("name") or "")
        slo = json.dumps(self.run.get("slo") or {}, sort_keys=True)
        engine, stages = self.run.get("engine") or {}, self.run.get("stages") or ()
        spans = json.dumps([_amount(stage) for stage in stages], sort_keys=True)
        same = (self.source, str(engine.get("clock") or REAL_TIME), sent, slo, spans)
        return *same, str(self.choice.npus.count is None), user_formula(self.choice.stages)

    @property
    def best(self) -> Option | None:
        """The option that stands for the result: the recommended one, else the most throughput on its front."""
        front = self.choice.decision.front
        return self.choice.decision.chosen or (front[0] if front else None)


def _amount(load: Mapping[str, Any]) -> Any:
    """How much a stage asks for: where requests come by the clock for so long, its rates say it."""
    if is_open(str(load.get("kind"))) and load.get("duration_s") is not None:
        return dict(load)
    return [load.get("kind"), load.get("duration_s"), load.get("requests")]


@dataclass(frozen=True, slots=True)
class Selection:
    """Results that may be compared, the decision on all of their options, and its figure."""

    title: str
    source: str
    text: Message
    figure: Drawing
    names: Sequence[str]

    @property
    def source_name(self) -> str:
        """Whether the results were measured, simulated, or made on a stub device."""
        return localized(SOURCES[self.source])


def source_of(run: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Where the numbers of a result come from."""
    engine = run.get("engine") or {}
    if summary.get("simulated") or engine.get("simulated"):
        return SIMULATED
    return STUB if engine.get("hollow") else MEASURED


def candidate_of(name: str, run: Mapping[str, Any], summary: Mapping[str, Any]) -> ResultOptions:
    """A result as a candidate; one of kernels has no options."""
    return ResultOptions(name, run, choice_of(run, summary), source_of(run, summary))


def selections(candidates: Sequence[ResultOptions]) -> list[Selection]:
    """A selection for each group of at least two results; those that were measured come first."""
    groups: dict[tuple[str, ...], list[ResultOptions]] = {}
    for candidate in _with_rates(candidates):
        groups.setdefault(candidate.work, []).append(candidate)
    several = [group for group in groups.values() if len(group) > 1]
    ordered = sorted(several, key=lambda group: list(SOURCES).index(group[0].source))
    return [_selection(group, number) for number, group in enumerate(ordered)]


def _with_rates(candidates: Sequence[ResultOptions]) -> list[ResultOptions]:
    return [own for own in candidates if any(math.isfinite(option.user_rate) for option in own.choice.options)]


def unlike_work(candidates: Sequence[ResultOptions]) -> Message | None:
    """Why no two of several results stand in one decision: the parts of their work that differ; None of one result."""
    parts = zip(_PARTS, zip(*(candidate.work for candidate in _with_rates(candidates)), strict=True), strict=False)
    unlike = [Message(code) for code, values in parts if len(set(values)) > 1]
    return message("page_index.no_decision", parts=unlike) if unlike else None


def decision_text(group: Sequence[ResultOptions]) -> Message | None:
    """The decision on results, in words; None where they may not stand in one, or show no rates."""
    if len({candidate.work for candidate in group}) > 1 or not _options(group):
        return None
    return _text(group, decide(_options(group)))


def _options(group: Sequence[ResultOptions]) -> list[Option]:
    named = [option for place, candidate in enumerate(group) for option in _named(place, candidate, group)]
    return [option for option in named if math.isfinite(option.user_rate)]


def _text(group: Sequence[ResultOptions], decision: Decision) -> Message:
    """The reason of a decision; of one on what was not measured with that."""
    source = group[0].source
    if source == MEASURED:
        return decision.reason
    return message("page_index.not_measured", source=message(SOURCES[source]), text=decision.reason)


def _selection(group: Sequence[ResultOptions], number: int) -> Selection:
    options = _options(group)
    decision = decide(options)
    return Selection(
        title=str(group[-1].run.get("name") or ""),
        source=group[0].source,
        text=_text(group, decision),
        figure=_figure(group, options, decision, number),
        names=[candidate.name for candidate in group],
    )


def _named(place: int, candidate: ResultOptions, group: Sequence[ResultOptions]) -> list[Option]:
    """A result's options under its own name, and its model's where the group has several."""
    models = {_model(other) for other in group}
    name = f"{candidate.name} ({_model(candidate)})" if len(models) > 1 else candidate.name
    return [
        replace(
            option,
            key=f"{place}:{option.key}",
            name=message("page_index.option", result=name, load=option.name),
            group=candidate.name,
        )
        for option in candidate.choice.options
    ]


def _model(candidate: ResultOptions) -> str:
    return str((candidate.run.get("engine") or {}).get("model") or "")


def _figure(group: Sequence[ResultOptions], options: Sequence[Option], decision: Decision, number: int) -> Drawing:
    by_engine = group[0].choice.npus.count is None
    edge, edge_name = slo_edge(group[0].run.get("slo") or {}, options)
    across = localized("page_decision.per_user", formula=user_formula(group[0].choice.stages))
    places = [_place(group, option, decision) for option in options]
    plane = Plane(places, across, upward_title(by_engine=by_engine), edge, edge_name)
    title = localized("page_decision.figure_engine" if by_engine else "page_decision.figure")
    if group[0].source == STUB:
        title = paragraph([title, localized("page_index.stub_mark")])
    head = Head(title, localized("page_index.subtitle"), simulated=group[0].source == SIMULATED)
    return draw_plane(plane, f"selection-{number}", head)


def _place(group: Sequence[ResultOptions], option: Option, decision: Decision) -> Place:
    result, _, stage = option.key.partition(":")
    candidate, index = group[int(result)], int(stage)
    loads = candidate.run.get("stages") or ()
    short = short_labels(loads)[index] if index < len(loads) else str(index + 1)
    label = localized("page_index.option", result=candidate.name, load=short)
    kind = is_open(str(loads[index].get("kind"))) if index < len(loads) else False
    low, high = user_interval(index, option, candidate.choice.stages)
    place = Place(
        option.user_rate, option.npu_rate, label, tip_of(option, localized(option.name)), stage_colour(int(result)),
        x_low=low, x_high=high, line=f"{result} {kind}", short=candidate.name,
    )  # fmt: skip
    return place_of(option, decision, place)
