"""The search for a study's topology: which layouts are worth measuring, and which of them the flags are searched on.

The simulator ranks the layouts, and learns from each that is measured. Measuring goes from the best to the worst and
ends where every layout that is left is predicted worse than the best measured one by more than a margin: the study's,
or twice the spread by which the simulator was off so far, whichever is more. At least two are measured beside the
default, so that predictions have been compared with measurements before the rest is skipped.
"""

import math
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.messages import Message, message
from harness.scenario.study import CAPACITIES
from harness.tuning.candidates import Candidate, CandidateResolver
from harness.tuning.study_plan import WITHIN_SLO, StudyPlan, TrialScores
from harness.tuning.topology import TOPOLOGY, Layout, layout_named
from harness.tuning.types import FAILED, Point, Trial, best_trial, total_violation

ORIGIN = "topology"
"""The origin of trials that measure a layout with the base configuration's flags; the default is one, too."""
MEASURED, SKIPPED, REFUSED, FAILED_START, OVER_BUDGET = "measured", "skipped", "refused", "failed", "left"
"""How a layout ended: measured; predicted worse; cannot serve; its engine failed; the budget ended before."""
UNFILLED = "tuning.topology_not_filled"
"""The message that the load does not fill the layout that is taken."""
_CHECKED = 2  # beside the default
_BUDGET_SHARE = 0.5  # of a budget of trials, at most
_SPREADS = 2.0
_FULL = 0.5  # of the requests that an engine has room for: from there on it is taken to be filled
_LATE = 0.05  # of the requests beyond the SLO: more users would only be more that are late
_NEAR_LIMIT = -0.1  # so near a limit, as a share of it, a load has no slack


@dataclass(frozen=True, slots=True)
class LayoutStanding:
    """A layout's place in the search: how it ended, what was predicted and measured of it, in which trial, and why.

    The one that is taken has a note where its load did not fill it.
    """

    layout: Layout
    verdict: str
    predicted: float | None = None
    value: float | None = None
    trial: int | None = None
    why: Message | None = None
    note: Message | None = None

    def as_dict(self) -> dict[str, Any]:
        """As study.json has it."""
        layout = self.layout
        known = {
            "name": layout.name, "cards": layout.cards, "tensor_parallel": layout.tensor_parallel,
            "engines": layout.engines, "prefill": layout.prefill, "decode": layout.decode, "verdict": self.verdict,
            "predicted": self.predicted, "value": self.value, "trial": self.trial,
        }  # fmt: skip
        why = {} if self.why is None else {"why": str(self.why), "reason": self.why.as_dict()}
        note = {} if self.note is None else {"note": str(self.note), "note_message": self.note.as_dict()}
        return known | why | note


Predictions = Mapping[Layout, TrialScores | None]
Predict = Callable[[Candidate], TrialScores | None]


@dataclass(frozen=True, slots=True)
class LayoutSearch:
    """What is known of a study's layouts: its trials so far, and what the simulator predicts (None: there is none)."""

    plan: StudyPlan
    trials: Sequence[Trial]
    predictions: Predictions | None

    @property
    def measured(self) -> dict[Layout, Trial]:
        """The trial of each layout that was tried with the base configuration's flags."""
        return {_layout_in(self.plan, trial): trial for trial in self.trials if trial.origin in (ORIGIN, "default")}

    @property
    def best(self) -> Trial | None:
        """The best of them that keeps every limit; else the one that breaks them least."""
        trials = list(self.measured.values())
        best = best_trial(trials, self.plan.objectives[0])
        broken = [trial for trial in trials if trial.values and trial.status != FAILED]
        return best or min(broken, key=lambda trial: total_violation(trial.violations), default=None)

    @property
    def chosen(self) -> Layout:
        """The layout of the best."""
        return self.plan.layouts[0] if self.best is None else _layout_in(self.plan, self.best)

    def next(self) -> Layout | None:
        """The layout that is measured next; None where none is worth it, or the budget is for flags."""
        left = [layout for layout in self._ranked() if layout not in self.measured]
        flags_begun = any(trial.origin not in (ORIGIN, "default", "sweep") for trial in self.trials)
        if not left or flags_begun or len(self.measured) >= self._most:
            return None
        checking = len(self.measured) <= _CHECKED
        return next((layout for layout in left if checking or self.why_skipped(layout) is None), None)

    @property
    def _most(self) -> float:
        """How many layouts the budget has trials for; where nothing but layouts is searched, for all."""
        trials = self.plan.study.budget.trials
        alone = len(self.plan.space.engine) == 1
        return math.inf if trials is None or alone else max(2, math.floor(trials * _BUDGET_SHARE))

    def _ranked(self) -> list[Layout]:
        """By the prediction, the best first; those that are predicted not to start are left out."""
        if self.predictions is None:
            return list(self.plan.layouts)
        known = {layout: scores for layout in self.plan.layouts if (scores := self.predictions[layout]) is not None}
        first = self.plan.objectives[0]
        return sorted(
            known,
            key=lambda layout: (
                total_violation(known[layout].violations),
                first.cost(known[layout].values[first.name]),
            ),
        )

    def why_skipped(self, layout: Layout) -> Message | None:
        """Why a layout need not be measured; None where it may be the best."""
        if self.predictions is None:
            return None
        scores = self.predictions[layout]
        if scores is None:
            return message("tuning.topology_would_not_start")
        best = self.best
        rival = None if best is None else self.predictions[_layout_in(self.plan, best)]
        if best is None or rival is None:
            return None
        margin, name = self._margin, self.plan.objectives[0].name
        if best.feasible and total_violation(scores.violations) > total_violation(rival.violations) + margin:
            return message("tuning.topology_breaks_limits")
        ratio = scores.values[name] / rival.values[name] if rival.values[name] > 0 else math.inf
        if not best.feasible or ratio >= 1 - margin:
            return None
        return message("tuning.topology_thought_worse", share=1 - ratio, margin=margin)

    @property
    def _margin(self) -> float:
        """The study's margin, or more where the simulator was off by more from one layout to the other."""
        topology, name = self.plan.study.topology, self.plan.objectives[0].name
        errors = [
            math.log(trial.values[name] / scores.values[name])
            for layout, trial in self.measured.items()
            if self.predictions is not None
            and (scores := self.predictions[layout]) is not None
            and min(trial.values.get(name, 0.0), scores.values[name]) > 0
        ]
        stated = 0.0 if topology is None else topology.margin
        return max(stated, -math.expm1(-_SPREADS * statistics.stdev(errors))) if len(errors) > 2 else stated

    def standings(self) -> Iterator[LayoutStanding]:
        """Every layout of the study: the one that is taken, the others that were measured, and the rest."""
        name, measured, chosen = self.plan.objectives[0].name, self.measured, self.chosen
        value = {layout: trial.values.get(name) for layout, trial in measured.items()}
        for layout in sorted(self.plan.layouts, key=lambda each: (each != chosen, -(value.get(each) or -math.inf))):
            scores = None if self.predictions is None else self.predictions[layout]
            predicted = None if scores is None else scores.values.get(name)
            trial, why = measured.get(layout), self.why_skipped(layout)
            if trial is not None:
                verdict = MEASURED if trial.values else FAILED_START
                note = _unfilled_note(self.plan, layout, trial) if layout == chosen else None
                yield LayoutStanding(layout, verdict, predicted, value[layout], trial.number, note=note)
            else:
                yield LayoutStanding(layout, OVER_BUDGET if why is None else SKIPPED, predicted, why=why)
        for fault in self.plan.refused_layouts:
            yield LayoutStanding(fault.layout, REFUSED, why=fault.why)


def topology_lines(plan: StudyPlan, standings: Sequence[LayoutStanding]) -> list[Message]:
    """Which topology was taken, what the others came to, and what that leaves of the cards."""
    first = next((row for row in standings if row.verdict == MEASURED), None)
    if first is None or first.value is None or plan.study.topology is None:
        return []
    counts = {verdict: sum(row.verdict == verdict for row in standings) for verdict in _COUNTED}
    layout, cards, name = first.layout, plan.study.topology.cards, plan.objectives[0].name
    others = [message(code, count=counts[verdict]) for verdict, code in _COUNTED.items() if counts[verdict]]
    best = message("tuning.topology_best", name=layout.name, objective=name, value=first.value, others=others)
    notes = [] if first.note is None else [first.note]
    if layout.cards == cards:
        return [best, *notes]
    copies = cards // layout.cards
    return [best, message("tuning.topology_copies", used=layout.cards, cards=cards, count=copies), *notes]


def _unfilled_note(plan: StudyPlan, layout: Layout, trial: Trial) -> Message | None:
    """That the load leaves a layout's engines mostly empty, so that more may turn the order; None where it does not.

    Filled is a layout whose engines hold half of the requests that they have room for, that preempt, of whose requests
    some are beyond the SLO, or that is near a limit of the study. The search for a capacity fills by its nature.
    """
    if trial.measurement is None or plan.objectives[0].name in CAPACITIES:
        return None
    metrics = trial.measurement.metrics
    ends = ("",) if len(plan.tasks) == 1 else tuple(f"@{place}" for place in range(len(plan.tasks)))
    fillings = [_filling(layout, trial, {name: metrics.get(name + end, 0.0) for name in _OF_LOAD}) for end in ends]
    known = [filling for filling in fillings if filling is not None]
    is_near = any(violation > _NEAR_LIMIT for violation in trial.violations.values())
    most_late = _LATE if plan.objectives[0].name in WITHIN_SLO else math.inf
    if is_near or len(known) < len(fillings) or any(each.is_full or each.late > most_late for each in known):
        return None
    most = max(known, key=lambda filling: filling.running / filling.room)
    return message(UNFILLED, running=max(1, round(most.running)), room=math.floor(most.room))


_OF_LOAD = ("request_rate", "goodput", "total_throughput", "e2e_mean", "preemptions")


@dataclass(frozen=True, slots=True)
class _Filling:
    """How full a load kept an engine: requests at once (mean) of those it has room for; the share beyond the SLO."""

    running: float
    room: float
    late: float
    preempted: bool

    @property
    def is_full(self) -> bool:
        return self.preempted or self.running >= _FULL * self.room


def _filling(layout: Layout, trial: Trial, metrics: Mapping[str, float]) -> _Filling | None:
    """Of one load; None where the measurement does not tell. Of pairs the side of fewer engines is looked at.

    Requests at once are their rate times their duration (Little's law); room is what `max_num_seqs` and the tokens of
    the KV cache allow, whichever is less.
    """
    rate, tokens = metrics["request_rate"], metrics["total_throughput"]
    at_once = rate * metrics["e2e_mean"]
    seats, cached = trial.effective.get("max_num_seqs"), trial.facts.get("kv_cache_tokens")
    by_cache = float(cached) * rate / tokens if cached and tokens > 0 else math.inf
    room = min(float(seats) if seats else math.inf, by_cache)
    if not (0 < at_once < math.inf and 0 < room < math.inf):
        return None
    engines = min(layout.prefill, layout.decode) or layout.engines
    return _Filling(at_once / engines, room, 1 - metrics["goodput"] / rate, metrics["preemptions"] > 0)


_COUNTED = {
    MEASURED: "tuning.topology_measured",
    SKIPPED: "tuning.topology_skipped",
    REFUSED: "tuning.topology_refused",
    FAILED_START: "tuning.topology_failed",
    OVER_BUDGET: "tuning.topology_left",
}


@dataclass(slots=True)
class LayoutChoice:
    """The topology that flags are searched on; None while it is searched. `tried` are those beside the default."""

    plan: StudyPlan
    resolver: CandidateResolver
    layout: Layout | None = None
    tried: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether flags can be searched: a topology is chosen, or there are not several."""
        return self.layout is not None or len(self.plan.layouts) < 2

    def pinned(self, point: Point) -> Point:
        """A point on the chosen topology."""
        return point if self.layout is None else {**point, TOPOLOGY: self.layout.name}

    def search(self, trials: Sequence[Trial], predict: Predict | None) -> LayoutSearch:
        """What is known of all topologies, each with the base configuration's flags."""
        engines = {layout: self.resolver.candidate({TOPOLOGY: layout.name}) for layout in self.plan.layouts}
        if predict is None:
            return LayoutSearch(self.plan, trials, None)
        known = {layout: None if engine is None else predict(engine) for layout, engine in engines.items()}
        return LayoutSearch(self.plan, trials, known)

    def settle(self, search: LayoutSearch, taken: Collection[str]) -> Candidate | None:
        """The next topology to measure; None where one is chosen now."""
        following = search.next()
        candidate = None if following is None else self.resolver.candidate({TOPOLOGY: following.name})
        if candidate is not None and candidate.engine_key not in taken:
            return candidate
        self.layout, self.tried = search.chosen, len(search.measured) - 1
        return None


def _layout_in(plan: StudyPlan, trial: Trial) -> Layout:
    name = trial.effective.get(TOPOLOGY)
    return plan.layouts[0] if name is None else layout_named(str(name))
