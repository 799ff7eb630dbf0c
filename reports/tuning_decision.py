"""The decision view of a study: throughput per NPU against tokens/s a user over its trials, with their Pareto front."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.analysis.decision import Decision, Option, decide
from harness.analysis.efficiency import MEDIAN, parallel_size
from harness.messages import localized, message
from harness.results.study import StudyFiles, feasible, measured_value
from reports.decision import draw_plane, place_of, tip_of, upward_title
from reports.figures.decision import Place, Plane
from reports.figures.style import Head
from reports.palette import ACCENT, INK
from reports.svg import Drawing
from reports.texts import paragraph


def trial_options(result: StudyFiles) -> list[Option]:
    """An option a trial whose load was measured whole; those that break a limit of the study are marked so.

    Where the scenario has an SLO, throughput is that of the responses that kept it: trials have one load, and one that
    keeps nobody's limits would look as good as any. Of a study of several tasks, which differ, there are none.
    """
    options = (_option(result, trial) for trial in result.trials if trial.get("status") == "complete")
    return [option for option in options if option is not None]


def _has_slo(result: StudyFiles) -> bool:
    """Whether every whole trial knows how many of its responses kept the scenario's SLO."""
    whole = [trial for trial in result.trials if trial.get("status") == "complete"]
    return all(measured_value(trial, "goodput") >= 0 and measured_value(trial, "request_rate") > 0 for trial in whole)


def _option(result: StudyFiles, trial: Mapping[str, Any]) -> Option | None:
    rate, tpot_s = (measured_value(trial, name) for name in ("throughput", f"tpot_{MEDIAN}"))
    if _has_slo(result):
        rate *= measured_value(trial, "goodput") / measured_value(trial, "request_rate")
    if not (rate >= 0 and tpot_s > 0):
        return None
    flags = trial.get("effective") or {}
    npus = parallel_size(flags) or (result.content.get("study") or {}).get("devices_per_trial")
    number = trial.get("number")
    return Option(
        key=str(number),
        name=message("page_tuning.confirmation.trial", trial=number),
        npu_rate=rate / (npus or 1),
        user_rate=1 / tpot_s,
        kept=feasible(trial) if trial.get("violations") else None,
        by_engine=not npus,
    )


def decision_figure(result: StudyFiles) -> Drawing | None:
    """The trials in both rates; None of fewer than two. The ring marks what the study confirmed, and nothing else."""
    options = trial_options(result)
    if len(options) < 2:
        return None
    front = decide([replace(option, kept=None) for option in options]).front
    confirmed = result.chosen.get("number") if result.chosen is not None else None
    chosen = next((option for option in options if option.key == str(confirmed)), None)
    decision = Decision(front, chosen, message("analysis.decision_nothing"))
    default = None if result.default is None else str(result.default.get("number"))
    places = [
        place_of(
            option,
            decision,
            Place(
                option.user_rate, option.npu_rate, _label(option, default), tip_of(option, localized(option.name)),
                INK if option.key == default else ACCENT,
            ),
        )
        for option in options
    ]  # fmt: skip
    by_engine = any(option.by_engine for option in options)
    formula = localized("page_decision.by_tpot", statistic=MEDIAN)
    upward = upward_title(by_engine=by_engine)
    if _has_slo(result):
        upward = localized("page_decision.within_slo", axis=upward)
    plane = Plane(places, localized("page_decision.per_user", formula=formula), upward)
    title = localized("page_decision.figure_engine" if by_engine else "page_decision.figure")
    names = [localized(option.name) for option in front]
    head = Head(title, localized("page_decision.trials", trials=names, count=len(names)), simulated=result.marked)
    return draw_plane(plane, "decision", head)


def _label(option: Option, default: str | None) -> str:
    name = localized(option.name)
    return paragraph([name, localized("page_decision.default_trial")]) if option.key == default else name
