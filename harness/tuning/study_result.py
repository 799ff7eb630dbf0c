"""The result of a study: study.json with parameter importance, the winner's files, the lines that are printed.

Importance is, for each parameter alone, the share of the variance between trials that it explains, as a parabola of its
rank (numbers) or the mean of each value (choices), less what as many coefficients explain by chance (adjusted R²).
Trials drawn again with replacement give the interval; values shuffled among the trials give the share that a
parameter without effect would reach.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.clock import utc_now
from harness.engines.interpreter_probe import flag_words
from harness.messages import Message, message
from harness.results.store import write_json
from harness.seeds import stream
from harness.tuning import export
from harness.tuning.capacity import answer_from_metrics
from harness.tuning.confirmation import Confirmation
from harness.tuning.feasibility import failure_line
from harness.tuning.gains import worst_message
from harness.tuning.parameters import InertParameter
from harness.tuning.simplification import MinimalWinner
from harness.tuning.simplification_result import simplification_as_dict, simplification_lines
from harness.tuning.study import StudyContext
from harness.tuning.study_plan import StudyPlan
from harness.tuning.topology_search import UNFILLED, topology_lines
from harness.tuning.trial_store import trial_as_json
from harness.tuning.turns import Finalist
from harness.tuning.types import (
    COMPLETE,
    FAILED,
    STOPPED,
    ParameterValue,
    StudyObjective,
    Trial,
    best_trial,
    pareto_front,
)

Floats = NDArray[np.float64]

FEWEST_TRIALS = 6
DRAWS = 200


@dataclass(frozen=True, slots=True)
class ParameterImportance:
    """Of one parameter: the share of variance that it explains, its 90 % interval, and whether chance would not do.

    `chance` is what 95 of 100 parameters without any effect would stay below.
    """

    name: str
    share: float
    low: float
    high: float
    chance: float

    @property
    def shown(self) -> bool:
        """Whether it explains more than chance would."""
        return self.share > self.chance


def importances(
    points: Sequence[Mapping[str, ParameterValue]], costs: Sequence[float], seed: int = 0
) -> tuple[ParameterImportance, ...]:
    """The importance of every parameter that took more than one value, the largest first; () of too few trials.

    `costs` are the trials' values, whichever way is better. Absence of a parameter counts as a value of its own.
    """
    finite = [place for place, cost in enumerate(costs) if math.isfinite(cost)]
    if len(finite) < FEWEST_TRIALS:
        return ()
    values = np.asarray([costs[place] for place in finite], dtype=np.float64)
    names = dict.fromkeys(name for point in points for name in point)
    columns = {name: [points[place].get(name) for place in finite] for name in names}
    results = [_importance(name, column, values, seed) for name, column in columns.items() if len(set(column)) > 1]
    return tuple(sorted(results, key=lambda importance: (-importance.share, importance.name)))


def _importance(name: str, column: Sequence[ParameterValue | None], values: Floats, seed: int) -> ParameterImportance:
    rng = stream(seed, f"importance of {name}")
    design = _design(column)
    n = len(values)
    drawn = [adjusted_r2(design[rows], values[rows]) for rows in rng.integers(0, n, (DRAWS, n))]
    dealt = [adjusted_r2(design, rng.permutation(values)) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, [0.05, 0.95])
    return ParameterImportance(
        name, adjusted_r2(design, values), float(low), float(high), float(np.quantile(dealt, 0.95))
    )


def _design(column: Sequence[ParameterValue | None]) -> Floats:
    """The columns of the regression: rank and its square of numbers, else one a value."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
        _, ranks = np.unique(np.asarray(column, dtype=np.float64), return_inverse=True)
        line = ranks / max(1, ranks.max())
        parts = [np.ones(len(column)), line, line**2] if ranks.max() > 1 else [np.ones(len(column)), line]
        return np.column_stack(parts)
    kinds = list(dict.fromkeys(map(str, column)))
    return np.asarray([[float(str(value) == kind) for kind in kinds] for value in column])


def adjusted_r2(design: Floats, values: Floats) -> float:
    """Adjusted R² of a least-squares fit, never below 0; 0 where there is nothing to explain."""
    centred = values - values.mean()
    total = float(centred @ centred)
    coefficients, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    n = len(values)
    if total <= 1e-18 * max(1.0, float(values @ values)) or n <= rank or rank < 2:
        return 0.0
    residual = values - design @ coefficients
    return max(0.0, 1 - float(residual @ residual) / total * (n - 1) / (n - int(rank)))


FORMAT = 1
FILE = "study.json"
_STATUSES = {COMPLETE: "tuning.complete", STOPPED: "tuning.stopped", FAILED: "tuning.failed"}


@dataclass(slots=True)
class StudyFindings:
    """What was found beyond the trials; None where there was none to make, or it was interrupted before."""

    confirmation: Confirmation | None = None
    minimal: MinimalWinner | None = None

    @property
    def winner(self) -> Finalist | None:
        """Who is taken, with no more flags than were found to be needed; None where nothing was confirmed."""
        if self.minimal is not None:
            return self.minimal.finalist
        return None if self.confirmation is None else self.confirmation.winner

    @property
    def minutes(self) -> float:
        """The engine time that it took."""
        return sum(part.minutes for part in (self.confirmation, self.minimal) if part is not None)

    @property
    def starts(self) -> int:
        """The engine starts that it took, those that failed too."""
        return sum(part.starts for part in (self.confirmation, self.minimal) if part is not None)


def write_result(
    context: StudyContext,
    findings: StudyFindings,
    *,
    simulated: bool,
    hollow: bool = False,
    interrupted: bool = False,
) -> list[Message]:
    """Write study.json and the winner's files; the lines for a terminal."""
    trials = context.store.trials()
    winner = findings.winner or _best_finalist(context, trials)
    lines = summary_lines(context, trials, findings, simulated=simulated or hollow, interrupted=interrupted)
    first = lines[1::-1] if interrupted and findings.confirmation is None else lines[:2]  # that it is not confirmed
    first += [line for line in lines[2:] if line.code == UNFILLED]
    remarks = [str(line).replace("\n", " ") for line in first]
    files: Mapping[str, str] = {}
    if winner is not None:
        written = export.write_winner_files(
            context.folder, context.plan.kind, winner.candidate.engine, context.plan.study.cards, remarks
        )
        files = {name: name for name in written}
    marks = {"simulated": simulated, "hollow": hollow, "interrupted": interrupted}
    write_json(
        context.folder,
        FILE,
        _plain(_told(context, trials, findings, winner) | marks | {"files": files, "lines": lines}),
    )
    return lines


def _best_finalist(context: StudyContext, trials: Sequence[Trial]) -> Finalist | None:
    trial = best_trial(trials, context.plan.objectives[0])
    candidate = None if trial is None else context.resolver.candidate(_engine_point(trial))
    if trial is None or candidate is None:
        return None
    return Finalist(trial.number, context.proposer.default() if trial.origin == "default" else candidate, {})


def _engine_point(trial: Trial) -> dict[str, Any]:
    return {name: value for name, value in trial.point.items() if not name.startswith("load.")}


def summary_lines(
    context: StudyContext,
    trials: Sequence[Trial],
    findings: StudyFindings,
    *,
    simulated: bool,
    interrupted: bool = False,
) -> list[Message]:
    """The result in a few lines: the gain first."""
    head = _head_line(context.plan, findings, interrupted=interrupted)
    lines = [message("tuning.simulated", line=head) if simulated else head]
    lines += _winner_lines(context, trials, findings, interrupted=interrupted)
    lines += topology_lines(context.plan, context.proposer.standings(trials))
    if findings.minimal is not None:
        lines += simplification_lines(findings.minimal)
    elif interrupted and findings.confirmation is not None:
        lines.append(message("tuning.interrupted_simplification"))
    if len(context.plan.objectives) > 1:
        lines.append(_front_line(pareto_front(trials, context.plan.objectives), context.plan))
    lines.append(_count_line(trials, findings, context.store.interrupted_count()))
    lines += [parameter.message for parameter in context.inert]
    if context.proposer.screener is not None:
        lines.append(message("tuning.screening", agreement=context.proposer.agreement(trials).message))
    return lines + list({str(note): note for note in context.notes}.values())


def _head_line(plan: StudyPlan, findings: StudyFindings, *, interrupted: bool) -> Message:
    objective, confirmed = plan.objectives[0].name, findings.confirmation
    if findings.minimal is not None:
        return message("tuning.result", objective=objective, gain=worst_message(findings.minimal.gain))
    if confirmed is not None and confirmed.gains:
        return message("tuning.result", objective=objective, gain=confirmed.message)
    if not interrupted:
        return message("tuning.result_not_confirmed", objective=objective)
    if plan.study.confirm.best:
        return message("tuning.interrupted_before_confirmation", objective=objective)
    return message("tuning.interrupted", objective=objective)


def _front_line(trials: Sequence[Trial], plan: StudyPlan) -> Message:
    points = [
        message(
            "tuning.front_trial",
            number=trial.number,
            values=[message("tuning.value", name=o.name, value=trial.values[o.name]) for o in plan.objectives],
        )
        for trial in trials
    ]
    return message("tuning.front", trials=points) if points else message("tuning.front_empty")


def _winner_lines(
    context: StudyContext, trials: Sequence[Trial], findings: StudyFindings, *, interrupted: bool
) -> list[Message]:
    confirmed = findings.confirmation
    if confirmed is not None and confirmed.gains and confirmed.winner.number is None:
        return [message("tuning.winner_default")]
    winner = findings.winner if confirmed is not None and confirmed.gains else _best_finalist(context, trials)
    if winner is None:
        return [message("tuning.no_winner")]
    flags = flag_words(export.flags_changed(context.plan.engine.args, winner.candidate.engine.args))
    configuration = " ".join(flags) if flags else message("tuning.base_configuration")
    line = message("tuning.winner", configuration=configuration)
    if winner.number is not None:
        code = "tuning.best_so_far" if interrupted and confirmed is None else "tuning.winner_trial"
        line = message(code, number=winner.number, configuration=configuration)
    drift = [] if confirmed is None or confirmed.drift_warning is None else [confirmed.drift_warning]
    return [line, *_why_not_best(trials, winner, context.plan.objectives[0]), *drift]


def _why_not_best(trials: Sequence[Trial], winner: Finalist, objective: StudyObjective) -> list[Message]:
    """Why the trial whose single run was best is not the winner, where it is not."""
    leading = best_trial(trials, objective)
    if leading is None or winner.number in (None, leading.number):
        return []
    return [message("tuning.best_run_not_winner", number=leading.number)]


def _count_line(trials: Sequence[Trial], findings: StudyFindings, interrupted: int) -> Message:
    """Trials, starts and minutes, with those of the confirmation, of the removal of flags, and of failed starts."""
    counts = {code: sum(trial.status == status for trial in trials) for status, code in _STATUSES.items()}
    confirming = findings.confirmation.minutes if findings.confirmation else 0.0
    simplifying = findings.minimal.minutes if findings.minimal else 0.0
    searching = sum(trial.minutes.total for trial in trials)
    minutes = [message("tuning.engine_minutes", minutes=searching + findings.minutes)]
    minutes += [message("tuning.confirming_minutes", minutes=confirming)] if confirming else []
    minutes += [message("tuning.simplifying_minutes", minutes=simplifying)] if simplifying else []
    minutes += [message("tuning.unknown_minutes", count=interrupted)] if interrupted else []
    starts = len({trial.start for trial in trials}) + findings.starts
    return message(
        "tuning.counts",
        trials=message("tuning.counts_trials", count=len(trials)),
        statuses=[message(code, count=count) for code, count in counts.items() if count],
        starts=message("tuning.counts_starts", count=starts),
        minutes=minutes,
    )


def _told(
    context: StudyContext, trials: Sequence[Trial], findings: StudyFindings, winner: Finalist | None
) -> dict[str, Any]:
    plan = context.plan
    objective = plan.objectives[0]
    finite = [trial for trial in trials if trial.values and math.isfinite(trial.values[objective.name])]
    return {
        "format": FORMAT,
        "name": plan.study.name,
        "question": plan.study.question,
        "finished_utc": utc_now().isoformat(timespec="seconds"),
        "study": plan.study.model_dump(mode="json", by_alias=True),
        "kind": plan.kind,
        "engine": plan.engine.model_dump(mode="json", exclude_none=True),
        "objectives": [asdict(objective) for objective in plan.objectives],
        "limits": [asdict(constraint) for constraint in plan.all_limits],
        "parameters": [asdict(parameter) for parameter in plan.space.parameters],
        "dead": [_inert(parameter) for parameter in context.inert],
        "notes": [str(note) for note in context.notes],
        "note_messages": [note.as_dict() for note in context.notes],
        "pool": {
            "different": len(context.proposer.pool),
            "same": context.proposer.same,
            "refused": context.proposer.refused,
        },
        "trials": [_trial(trial) for trial in trials],
        "front": [trial.number for trial in pareto_front(trials, plan.objectives)],
        "topologies": [row.as_dict() for row in context.proposer.standings(trials)],
        "screening": None if context.proposer.screener is None else asdict(context.proposer.agreement(trials)),
        "importance": [
            asdict(importance) | {"shown": importance.shown}
            for importance in importances(
                [trial.point for trial in finite], [objective.cost(trial.values[objective.name]) for trial in finite]
            )
        ],
        "confirmation": None if findings.confirmation is None else _confirmation(findings.confirmation),
        "simplification": None if findings.minimal is None else simplification_as_dict(findings.minimal),
        "winner": None if winner is None else _winner(plan, winner),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    """A trial as study.json has it; the values of one that was stopped early are extrapolated."""
    marks = {"extrapolated": trial.status == STOPPED, **_cause(trial), **_answer(trial)}
    return {"number": trial.number, **trial_as_json(trial), **marks}


def _inert(parameter: InertParameter) -> dict[str, Any]:
    """`why` is English, `reason` the same as a message."""
    names = {"name": parameter.name, "becomes": parameter.becomes}
    return names | {"why": str(parameter.why), "reason": parameter.why.as_dict()}


def _cause(trial: Trial) -> dict[str, Any]:
    """Why a trial failed, in English and as a message."""
    if trial.failure is None:
        return {"cause": None}
    line = failure_line(trial.failure)
    return {"cause": str(line), "cause_message": line.as_dict()}


def _answer(trial: Trial) -> dict[str, Any]:
    """The answer of a search for a capacity, in English and as a message."""
    answer = None if trial.measurement is None else answer_from_metrics(trial.measurement.metrics)
    if answer is None:
        return {"answer": None, "answer_message": None}
    return {"answer": str(answer), "answer_message": answer.as_dict()}


def _winner(plan: StudyPlan, winner: Finalist) -> dict[str, Any]:
    return {
        "trial": winner.number,
        "point": dict(winner.candidate.point),
        "load": dict(winner.load),
        "effective": dict(winner.candidate.resolved.effective),
        "changed": export.flags_changed(plan.engine.args, winner.candidate.engine.args),
        **export.commands_of(winner.candidate.engine, plan.kind),
    }


def _confirmation(confirmation: Confirmation) -> dict[str, Any]:
    return {
        "entrants": [
            {"trial": finalist.number, "point": dict(finalist.candidate.point), "load": dict(finalist.load)}
            for finalist in confirmation.finalists
        ],
        "values": {str(who): list(values) for who, values in confirmation.values.items()},
        "gains": {str(who): gain.as_dict() for who, gain in confirmation.gains.items()},
        "choice": confirmation.choice,
        "broken": {str(who): list(names) for who, names in confirmation.broken.items()},
        "drift": None if confirmation.drift_warning is None else str(confirmation.drift_warning),
        "drift_message": None if confirmation.drift_warning is None else confirmation.drift_warning.as_dict(),
        "minutes": confirmation.minutes,
        "starts": confirmation.starts,
        "words": str(confirmation.message),
    }


def _plain(value: Any) -> Any:
    """Values as JSON has them: what is not finite is null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
