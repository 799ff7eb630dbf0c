"""The decision view of a run: which stage to run, why, what it costs, and the figure that shows it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.analysis.decision import Decision, Option, cut_stages, decide, stage_options
from harness.analysis.efficiency import BY_LENGTH, HeldNpus, held_npus, judged_tpot, with_efficiency
from harness.analysis.slo import objectives
from harness.analysis.warnings import is_invalid, warnings_of
from harness.messages import localized
from harness.results.folder import number
from harness.units import significant
from reports.data import Data
from reports.figures.decision import BROKEN, KEPT, LEFT_OUT, Place, Plane, decision_plane
from reports.figures.style import Head, drawing
from reports.loads import column_title, load_text, short_duration
from reports.palette import stage_colour
from reports.svg import Drawing, drawn
from reports.tables import Cell, verdict_cell
from reports.texts import paragraph

Stage = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DecisionView:
    """What the page shows: heading, sentence, figure (None of fewer than two options), table, and what was counted."""

    title: str
    text: str
    figure: Drawing | None
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    basis: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The options of one result and the decision on them; `stages` have their `efficiency`."""

    stages: Sequence[Stage]
    npus: HeldNpus
    options: Sequence[Option]
    decision: Decision


def choice_of(run: Mapping[str, Any], summary: Mapping[str, Any]) -> Choice:
    """The options of a run.json and its summary.json; also of one made before summaries held their efficiency."""
    kept = summary.get("npus")
    npus = HeldNpus(kept.get("count"), str(kept.get("source"))) if kept else held_npus(run)
    stages = with_efficiency(summary.get("stages") or (), npus, run)
    options = stage_options(stages, warnings_of(summary), npus.count, cut=cut_stages(summary))
    return Choice(stages, npus, options, decide(options))


def decision_view(data: Data) -> DecisionView | None:
    """The decision view of a run; None where no stage shows both rates."""
    choice = choice_of(data.result.run, data.result.summary)
    if not choice.options:
        return None
    shown = [option for option in choice.options if math.isfinite(option.user_rate)]
    title = "page_decision.title" if len(choice.options) > 1 else "page_compare.efficiency"
    return DecisionView(
        title=localized(title),
        text=localized(choice.decision.reason) if len(shown) > 1 else "",
        figure=_figure(data, choice, shown) if len(shown) > 1 else None,
        heads=_heads(choice),
        rows=[_row(option, choice, data) for option in choice.options],
        basis=paragraph([npus_text(choice.npus), basis_text(choice.stages) if shown else ""]),
    )


def npus_text(npus: HeldNpus) -> str:
    """How many NPUs the engine held, and how that is known."""
    if npus.count is None:
        return localized("page_decision.npus_unknown")
    return localized(_SOURCES[npus.source], count=npus.count)


_SOURCES = {
    "parallel": "page_decision.npus_parallel",
    "devices": "page_decision.npus_devices",
    "telemetry": "page_decision.npus_telemetry",
}


def basis_text(stages: Sequence[Stage]) -> str:
    """How tokens/s a user are computed."""
    return localized("page_decision.basis", formula=user_formula(stages))


def user_formula(stages: Sequence[Stage]) -> str:
    """The formula of tokens/s a user, such as `1 / TPOT p50`."""
    basis = next((stage["efficiency"]["user_token_rate_basis"] for stage in stages), None)
    if basis in (None, BY_LENGTH):
        return localized("page_decision.by_length")
    return localized("page_decision.by_tpot", statistic=str(basis).rpartition("_")[2])


def upward_title(*, by_engine: bool) -> str:
    """The title of the axis of throughput."""
    return localized("page_decision.per_engine" if by_engine else "page_decision.per_npu")


def _figure(data: Data, choice: Choice, shown: Sequence[Option]) -> Drawing:
    places = [_place(option, choice, data) for option in shown]
    by_engine = choice.npus.count is None
    edge, name = slo_edge(data.result.run.get("slo") or {}, choice.options)
    across = localized("page_decision.per_user", formula=user_formula(choice.stages))
    plane = Plane(places, across, upward_title(by_engine=by_engine), edge, name)
    title = "page_decision.figure_engine" if by_engine else "page_decision.figure"
    head = data.head(localized(title), localized("page_decision.subtitle"))
    return draw_plane(plane, "decision", head)


def draw_plane(plane: Plane, name: str, head: Head) -> Drawing:
    """The figure of some options as a drawing, its numbers in the alternative text."""
    points = [place.tip for place in plane.places]
    words = localized("page_decision.description", points=points)
    left_out = any(place.kind == LEFT_OUT for place in plane.places)
    broken = any(place.kind == BROKEN for place in plane.places)
    caption = paragraph(
        [
            localized("page_decision.caption"),
            localized("page_decision.caption_broken") if broken else "",
            localized("page_decision.caption_left_out") if left_out else "",
        ]
    )
    with drawing():
        return drawn(decision_plane(plane, head), name, head, words, caption)


def _place(option: Option, choice: Choice, data: Data) -> Place:
    index = int(option.key)
    low, high = user_interval(index, option, choice.stages)
    return place_of(
        option,
        choice.decision,
        Place(
            option.user_rate,
            option.npu_rate,
            label=data.names.get(index, str(index + 1)),
            tip=tip_of(option, localized(option.name)),
            colour=stage_colour(index),
            x_low=low,
            x_high=high,
            short=f"#{index + 1}",
        ),
    )


def place_of(option: Option, decision: Decision, place: Place) -> Place:
    """The place with the kind of its option, and whether that stands on the front and is chosen."""
    broken = option.kept is False and not option.undecided
    kind = LEFT_OUT if not option.eligible or option.undecided else BROKEN if broken else KEPT
    chosen = decision.chosen is not None and decision.chosen.key == option.key
    return replace(place, kind=kind, on_front=any(o.key == option.key for o in decision.front), chosen=chosen)


def tip_of(option: Option, name: str) -> str:
    """What hovering over an option shows."""
    code = "page_decision.tip_engine" if option.by_engine else "page_decision.tip"
    return localized(code, name=name, npu_rate=option.npu_rate, user_rate=option.user_rate)


def user_interval(index: int, option: Option, stages: Sequence[Stage]) -> tuple[float, float]:
    """The interval of the repeat that the option's rate of a user is of; NaN where there is none."""
    own = [stage["efficiency"] for stage in stages if (stage.get("index") or 0) == index]
    near = min(own, key=lambda e: abs(number(e["user_token_rate"]) - option.user_rate) if e["user_token_rate"] else 0)
    low, high = near["user_token_rate_ci95"] or (math.nan, math.nan)
    return low, high


def slo_edge(slo: Mapping[str, float], options: Sequence[Option]) -> tuple[float | None, str]:
    """The tokens/s a user from which the limits are kept, and its name; None where there are no limits.

    A limit of TPOT is exact. Without one it is the slowest option from which on all keep their limits.
    """
    statistic = judged_tpot(slo)
    for limit in objectives(slo, open_loop=False):
        if (limit.metric, limit.statistic) == ("tpot", statistic):
            name = localized("page_decision.edge", statistic=statistic, limit=short_duration(limit.limit_s))
            return 1 / limit.limit_s, name
    judged = sorted((o for o in options if o.eligible and o.kept is not None), key=lambda o: -o.user_rate)
    broken = next((place for place, option in enumerate(judged) if not option.kept), len(judged))
    if not broken:
        return None, ""
    name = "page_decision.edge_all" if broken < len(judged) else "page_decision.edge_tested"
    return judged[broken - 1].user_rate, localized(name)


def _heads(choice: Choice) -> list[str]:
    rate = "page_decision.head_engine" if choice.npus.count is None else "page_decision.head_npu"
    codes = ["page.stages.stage", rate, "page_decision.head_user"]
    codes += ["page_decision.head_cost"] if any(o.cost is not None for o in choice.options) else []
    codes += ["page_decision.head_energy"] if any(o.kwh is not None for o in choice.options) else []
    codes += ["page.stages.limits", "page_decision.head_front"] if len(choice.options) > 1 else []
    return [localized(code) for code in codes]


def _row(option: Option, choice: Choice, data: Data) -> list[Cell]:
    index = int(option.key)
    low, high = user_interval(index, option, choice.stages)
    between = "" if math.isnan(low) else f"{significant(low)}–{significant(high)}"
    prices = [cost_text(option)] if any(o.cost is not None for o in choice.options) else []
    if any(o.kwh is not None for o in choice.options):
        prices.append("–" if option.kwh is None else significant(option.kwh))
    several = len(choice.options) > 1
    title = next((stage for stage in choice.stages if (stage.get("index") or 0) == index), {})
    return [
        Cell(column_title(index, load_text(title))),
        Cell(significant(option.npu_rate)),
        Cell(significant(option.user_rate), between),
        *map(Cell, prices),
        *([limits_cell(option), front_cell(option, choice.decision, invalid=_invalid(data, index))] if several else []),
    ]


def cost_text(option: Option) -> str:
    """What a million output tokens cost, with the currency where it is named."""
    return "–" if option.cost is None else f"{significant(option.cost)} {option.currency}".strip()


def _invalid(data: Data, index: int) -> bool:
    kept = warnings_of(data.result.summary)
    repeats = [stage.get("repeat") or 0 for stage in data.result.stages if (stage.get("index") or 0) == index]
    return all(is_invalid(kept, index, repeat) for repeat in repeats)


def limits_cell(option: Option | None) -> Cell:
    """Whether an option keeps every limit; of one that was cut, or is not decided, that it is not judged."""
    if option is None or option.kept is None:
        return Cell("–")
    if option.undecided or option.cut:
        return Cell(localized("page.stages.not_met_surely"))
    return verdict_cell(option.kept, option.unproven)


def front_cell(option: Option, decision: Decision, *, invalid: bool) -> Cell:
    """Whether an option is chosen, stands on the front, or why it does not."""
    if decision.chosen is not None and decision.chosen.key == option.key:
        return Cell(localized("page_decision.chosen"), tone="good")
    if option.cut:
        return Cell(localized("page.stages.unsure_cut"))
    if not option.eligible:
        return Cell(localized("page.not_valid" if invalid else "page.stages.queue_grew"), tone="bad")
    if not math.isfinite(option.user_rate):
        return Cell("–")
    on_front = any(o.key == option.key for o in decision.front)
    return Cell(localized("page_decision.on_front" if on_front else "page_decision.beaten"))
