"""Which configuration to run: the Pareto front of throughput per NPU and tokens/s a user, and the choice on it.

An option is a configuration under a load: a stage of a run, a trial of a study, or a stage of one of several results.
Options that are not valid, that an interruption cut, or whose queue grew as long as the load lasted, are never on the
front. With limits the
choice is the option of the most throughput per NPU among those that keep all of them, or the cheapest where the cost of
each is known, which within one run is the same; without limits it is a trade
along the front, unless one option is best in both.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from harness.analysis.slo import CLOSE, FEW, is_cut, unproven
from harness.analysis.warnings import Warning, is_invalid
from harness.messages import Message, message, sentences, stored

Stage = Mapping[str, Any]
NEAR = 0.03  # of the throughput; closer than that two runs of the same differ by chance


@dataclass(frozen=True, slots=True)
class Option:
    """One configuration under one load.

    `npu_rate` in output tokens/s per NPU (of the engine where `by_engine`), `user_rate` in tokens/s a user, `kept`
    whether every limit was kept (None without limits), `undecided` that nobody knows, `unproven` why that is no proof
    (CLOSE or FEW), `cut` that the load was cut by an interruption, `eligible` whether it may stand on the front; `cost`
    (in a `currency`, empty where it is not named) and `kwh` of a million output tokens, None where not known; `group`
    the configuration, whatever its load.
    """

    key: str
    name: Message
    npu_rate: float
    user_rate: float
    kept: bool | None = None
    eligible: bool = True
    by_engine: bool = False
    cost: float | None = None
    kwh: float | None = None
    group: str = ""
    undecided: bool = False
    unproven: str = ""
    currency: str = ""
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The options on the front by falling throughput, the one to run (None: a trade-off, or none may), and why."""

    front: Sequence[Option]
    chosen: Option | None
    reason: Message

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it, under `decision`."""
        return {
            "front": [option.key for option in self.front],
            "chosen": None if self.chosen is None else self.chosen.key,
            "text": str(self.reason),
            "message": self.reason.as_dict(),
        }


def pareto_front(options: Sequence[Option]) -> list[Option]:
    """The eligible options that no other one equals in both rates and beats in one, by falling throughput."""
    known = _comparable(options)
    front: list[Option] = []
    fastest = -math.inf
    for option in sorted(known, key=lambda o: (-o.npu_rate, -o.user_rate)):
        same = bool(front) and (option.npu_rate, option.user_rate) == (front[-1].npu_rate, front[-1].user_rate)
        if option.user_rate > fastest or same:
            front.append(option)
            fastest = option.user_rate
    return front


def _comparable(options: Sequence[Option]) -> list[Option]:
    """The eligible options of which both rates are known."""
    return [o for o in options if o.eligible and math.isfinite(o.npu_rate) and math.isfinite(o.user_rate)]


def decide(options: Sequence[Option]) -> Decision:
    """The front of these options, and which one to run."""
    known = _comparable(options)
    front = pareto_front(known)
    if not front:
        return Decision(front, None, message("analysis.decision_nothing"))
    if all(option.kept is None for option in known):
        return _without_limits(front)
    keeping = [option for option in known if option.kept]
    if not keeping:
        return Decision(front, None, sentences(message("analysis.decision_none_keeps", count=len(known)), *_may(known)))
    chosen = _best(keeping)
    most = max(option.npu_rate for option in keeping)
    code = "analysis.decision_most" if chosen.npu_rate == most else "analysis.decision_cheapest"
    counted = {"count": len(keeping)}
    if len(keeping) == 1:
        code, counted = "analysis.decision_only", {}
    reason = message(code, **counted, **_rates(chosen))
    return Decision(front, chosen, sentences(reason, *_doubtful(chosen), *_near(chosen, keeping), *_price(chosen)))


def _best(keeping: Sequence[Option]) -> Option:
    """Of those that keep every limit: the cheapest where each has a cost, else the one of the most throughput.

    Costs in several currencies do not decide.
    """
    if all(option.cost is not None for option in keeping) and len({option.currency for option in keeping}) == 1:
        return min(keeping, key=lambda o: (o.cost, -o.npu_rate, -o.user_rate))
    return pareto_front(keeping)[0]


def _near(chosen: Option, keeping: Sequence[Option]) -> list[Message]:
    """Options that give nearly as much: the fastest for a user, and those of other configurations, if there are any."""
    close = [o for o in keeping if o is not chosen and abs(1 - o.npu_rate / chosen.npu_rate) <= NEAR]
    faster = [o for o in close if o.user_rate > chosen.user_rate]
    if faster:
        other = max(faster, key=lambda o: o.user_rate)
        short = max(0.0, 1 - other.npu_rate / chosen.npu_rate)
        return [message("analysis.decision_near", name=other.name, short=short, user_rate=other.user_rate)]
    others = [o.name for o in close if o.group != chosen.group]
    return [message("analysis.decision_close", names=others, near=NEAR)] if others else []


_UNPROVEN = {CLOSE: message("analysis.decision_unproven_close"), FEW: message("analysis.decision_unproven_few")}


def _doubtful(chosen: Option) -> list[Message]:
    """That it is no proof that the chosen option keeps its limits."""
    return [_UNPROVEN[chosen.unproven]] if chosen.unproven else []


def _may(options: Sequence[Option]) -> list[Message]:
    """Of options that missed a limit those of which that is no proof."""
    names = [option.name for option in options if option.unproven and option.kept is False]
    return [message("analysis.decision_may_keep", names=names)] if names else []


def _without_limits(front: Sequence[Option]) -> Decision:
    most, fastest = front[0], front[-1]
    if (most.npu_rate, most.user_rate) == (fastest.npu_rate, fastest.user_rate):
        return Decision(front, most, sentences(message("analysis.decision_both", **_rates(most)), *_price(most)))
    ends = {name: message("analysis.decision_end", **_rates(o)) for name, o in (("most", most), ("fastest", fastest))}
    return Decision(front, None, message("analysis.decision_trade", **ends))


def _rates(option: Option) -> dict[str, Any]:
    unit = message("analysis.per_engine" if option.by_engine else "analysis.per_npu")
    return {"name": option.name, "unit": unit, "npu_rate": option.npu_rate, "user_rate": option.user_rate}


def _price(option: Option) -> list[Message]:
    """What a million output tokens take, as far as it is known."""
    prices = []
    if option.cost is not None and option.currency:
        prices.append(message("analysis.decision_cost_in", cost=option.cost, currency=option.currency))
    elif option.cost is not None:
        prices.append(message("analysis.decision_cost", cost=option.cost))
    if option.kwh is not None:
        prices.append(message("analysis.decision_energy", kwh=option.kwh))
    return prices


def stage_options(
    stages: Sequence[Stage], warnings: Sequence[Warning], npus: int | None, *, cut: Collection[int] = ()
) -> list[Option]:
    """An option a stage: the medians over its valid repeats; `stages` are those of summary.json, with `efficiency`.

    Rates that are not known are NaN, as that of a user in a batch. `cut` are the numbers of stages that an interruption
    cut.
    """
    growing = {warning.stage for warning in warnings if warning.code == "queue_grew"}
    groups: dict[int, list[Stage]] = {}
    for stage in stages:
        groups.setdefault(int(stage.get("index") or 0), []).append(stage)
    options = (_option(same, warnings, npus) for same in groups.values() if _known(same, "npu_token_rate"))
    kept = (replace(o, eligible=False) if int(o.key) in growing else o for o in options)
    return [replace(o, eligible=False, cut=True) if int(o.key) in cut else o for o in kept]


def cut_stages(summary: Mapping[str, Any]) -> set[int]:
    """Numbers of the stages of summary.json of which an interruption cut a repeat."""
    return {int(stage.get("index") or 0) for stage in summary.get("stages") or () if is_cut(summary, stage)}


def _option(repeats: Sequence[Stage], warnings: Sequence[Warning], npus: int | None) -> Option:
    index = int(repeats[0].get("index") or 0)
    valid = [stage for stage in repeats if not is_invalid(warnings, index, int(stage.get("repeat") or 0))]
    shown = valid or repeats
    met = [stage.get("slo_met") for stage in shown if stage.get("slo")]
    return Option(
        key=str(index),
        name=stored(shown[0].get("label_message"), str(shown[0].get("label") or index + 1)),
        npu_rate=_median(shown, "npu_token_rate"),
        user_rate=_median(shown, "user_token_rate"),
        kept=all(kept is True for kept in met) if met else None,
        undecided=None in met and False not in met,
        unproven=next((weak for stage in shown if (weak := unproven(stage))), ""),
        eligible=bool(valid),
        by_engine=npus is None,
        cost=_known(shown, "cost_per_million_output_tokens"),
        currency=str(shown[0]["efficiency"].get("currency") or ""),
        kwh=_known(shown, "kwh_per_million_output_tokens"),
    )


def _median(stages: Sequence[Stage], name: str) -> float:
    known = _known(stages, name)
    return math.nan if known is None else known


def _known(stages: Sequence[Stage], name: str) -> float | None:
    values = [float(value) for stage in stages if (value := stage["efficiency"].get(name)) is not None]
    return median(values) if values else None
