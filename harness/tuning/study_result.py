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
from harness.results.store import write_json
from harness.seeds import stream
from harness.tuning import export
from harness.tuning.capacity import answer_from_metrics
from harness.tuning.confirmation import Confirmation, Finalist
from harness.tuning.feasibility import failure_line as failure_words
from harness.tuning.study import StudyContext
from harness.tuning.study_plan import StudyPlan
from harness.tuning.trial_store import trial_as_json
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
from harness.units import significant

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
    kept = [place for place, cost in enumerate(costs) if math.isfinite(cost)]
    if len(kept) < FEWEST_TRIALS:
        return ()
    values = np.asarray([costs[place] for place in kept], dtype=np.float64)
    names = dict.fromkeys(name for point in points for name in point)
    columns = {name: [points[place].get(name) for place in kept] for name in names}
    found = [_importance(name, column, values, seed) for name, column in columns.items() if len(set(column)) > 1]
    return tuple(sorted(found, key=lambda one: (-one.share, one.name)))


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
    left = values - values.mean()
    whole = float(left @ left)
    coefficients, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    n = len(values)
    if whole <= 1e-18 * max(1.0, float(values @ values)) or n <= rank or rank < 2:
        return 0.0
    residual = values - design @ coefficients
    return max(0.0, 1 - float(residual @ residual) / whole * (n - 1) / (n - int(rank)))


FORMAT = 1
FILE = "study.json"


def write_result(
    work: StudyContext,
    confirmed: Confirmation | None,
    *,
    simulated: bool,
    hollow: bool = False,
    interrupted: bool = False,
) -> list[str]:
    """Write study.json and the winner's files; the lines for a terminal."""
    trials = work.store.trials()
    winner = confirmed.winner if confirmed is not None else _best_entrant(work, trials)
    lines = summary_lines(work, trials, confirmed, simulated=simulated or hollow, interrupted=interrupted)
    remarks = [line.replace("\n", " ") for line in lines[:2]]
    files: Mapping[str, str] = {}
    if winner is not None:
        written = export.write_winner_files(
            work.folder, work.problem.kind, winner.candidate.engine, work.problem.study.devices_per_trial, remarks
        )
        files = {name: name for name in written}
    marks = {"simulated": simulated, "hollow": hollow, "interrupted": interrupted}
    write_json(
        work.folder, FILE, _plain(_told(work, trials, confirmed, winner) | marks | {"files": files, "lines": lines})
    )
    return lines


def _best_entrant(work: StudyContext, trials: Sequence[Trial]) -> Finalist | None:
    found = best_trial(trials, work.problem.objectives[0])
    candidate = None if found is None else work.resolver.one(_engine_point(found))
    if found is None or candidate is None:
        return None
    return Finalist(found.number, work.proposer.default() if found.origin == "default" else candidate, {})


def _engine_point(trial: Trial) -> dict[str, Any]:
    return {name: value for name, value in trial.point.items() if not name.startswith("load.")}


def summary_lines(
    work: StudyContext,
    trials: Sequence[Trial],
    confirmed: Confirmation | None,
    *,
    simulated: bool,
    interrupted: bool = False,
) -> list[str]:
    """What was found, in a few lines: the gain first."""
    problem = work.problem
    objective = problem.objectives[0]
    mark = "SIMULATED, not a measurement: " if simulated else ""
    if confirmed is not None and confirmed.gains:
        head = f"{mark}{objective.name}: {confirmed.words}"
    elif interrupted:
        end = "the confirmation" if problem.study.confirm.best else "its end"
        head = f"{mark}{objective.name}: interrupted before {end}; --resume goes on"
    else:
        head = f"{mark}{objective.name}: not confirmed against the default"
    lines = [head, *_winner_lines(work, trials, confirmed)]
    lines += (
        [f"Pareto front: {_points(pareto_front(trials, problem.objectives), problem)}"]
        if len(problem.objectives) > 1
        else []
    )
    lines.append(_count_line(trials, confirmed, work.store.interrupted_count()))
    lines += [f"{one.words}" for one in work.inert]
    if work.proposer.twin is not None:
        lines.append(f"screening: {work.proposer.agreement(trials).words}")
    return lines + list(dict.fromkeys(work.notes))


def _points(trials: Sequence[Trial], problem: StudyPlan) -> str:
    points = (
        f"trial {one.number} ({', '.join(f'{o.name} {significant(one.values[o.name])}' for o in problem.objectives)})"
        for one in trials
    )
    return "; ".join(points) or "none"


def _winner_lines(work: StudyContext, trials: Sequence[Trial], confirmed: Confirmation | None) -> list[str]:
    if confirmed is not None and confirmed.gains and confirmed.winner.number is None:
        return ["winner: the default configuration, as no other was shown to be better"]
    winner = confirmed.winner if confirmed is not None and confirmed.gains else _best_entrant(work, trials)
    if winner is None:
        return ["winner: none; no configuration kept every limit"]
    base = work.problem.engine.args
    changed = export.flags_changed(base, winner.candidate.engine.args)
    told = " ".join(flag_words(changed)) or "the base configuration"
    number = "" if winner.number is None else f"trial {winner.number}: "
    drifted = [] if confirmed is None or confirmed.drift_warning is None else [confirmed.drift_warning]
    return [f"winner: {number}{told}", *_why_not_best(trials, winner, work.problem.objectives[0]), *drifted]


def _why_not_best(trials: Sequence[Trial], winner: Finalist, objective: StudyObjective) -> list[str]:
    """Why the trial whose single run was best is not the winner, where it is not."""
    found = best_trial(trials, objective)
    if found is None or winner.number in (None, found.number):
        return []
    return [f"trial {found.number} had the best single run, but gained less when both were run in turns"]


def _count_line(trials: Sequence[Trial], confirmed: Confirmation | None, cut_off: int) -> str:
    """Trials, starts and minutes, the confirmation's and those of failed starts with them."""
    counts = {status: sum(trial.status == status for trial in trials) for status in (COMPLETE, STOPPED, FAILED)}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    searched = sum(trial.minutes.total for trial in trials)
    starts = len({trial.start for trial in trials}) + (confirmed.starts if confirmed else 0)
    minutes = searched + (confirmed.minutes if confirmed else 0.0)
    lost = f", and that of {cut_off} trials that a kill cut off, which is not known" if cut_off else ""
    own = f", {significant(confirmed.minutes)} of them to confirm" if confirmed and confirmed.minutes else ""
    return (
        f"{len(trials)} trials ({told}), {starts} engine starts, {significant(minutes)} min of engine time{own}{lost}"
    )


def _told(
    work: StudyContext, trials: Sequence[Trial], confirmed: Confirmation | None, winner: Finalist | None
) -> dict[str, Any]:
    problem = work.problem
    objective = problem.objectives[0]
    known = [trial for trial in trials if trial.values and math.isfinite(trial.values[objective.name])]
    return {
        "format": FORMAT,
        "name": problem.study.name,
        "question": problem.study.question,
        "finished_utc": utc_now().isoformat(timespec="seconds"),
        "study": problem.study.model_dump(mode="json", by_alias=True),
        "kind": problem.kind,
        "engine": problem.engine.model_dump(mode="json", exclude_none=True),
        "objectives": [asdict(one) for one in problem.objectives],
        "limits": [asdict(one) for one in problem.all_limits],
        "parameters": [asdict(one) for one in problem.space.parameters],
        "dead": [asdict(one) for one in work.inert],
        "notes": work.notes,
        "pool": {"different": len(work.proposer.pool), "same": work.proposer.same, "refused": work.proposer.refused},
        "trials": [_trial(one) for one in trials],
        "front": [one.number for one in pareto_front(trials, problem.objectives)],
        "screening": None if work.proposer.twin is None else asdict(work.proposer.agreement(trials)),
        "importance": [
            asdict(one) | {"shown": one.shown}
            for one in importances(
                [trial.point for trial in known], [objective.cost(trial.values[objective.name]) for trial in known]
            )
        ],
        "confirmation": None if confirmed is None else _confirmation(confirmed),
        "winner": None if winner is None else _winner(problem, winner),
    }


def _trial(one: Trial) -> dict[str, Any]:
    """A trial as study.json has it; the values of one that was stopped early are extrapolated."""
    marks = {"extrapolated": one.status == STOPPED, "cause": _cause(one), "answer": _answer(one)}
    return {"number": one.number, **trial_as_json(one), **marks}


def _cause(trial: Trial) -> str | None:
    return None if trial.failure is None else failure_words(trial.failure)


def _answer(trial: Trial) -> str | None:
    """What a search for a capacity answered."""
    return None if trial.measurement is None else answer_from_metrics(trial.measurement.metrics)


def _winner(problem: StudyPlan, winner: Finalist) -> dict[str, Any]:
    return {
        "trial": winner.number,
        "point": dict(winner.candidate.point),
        "load": dict(winner.load),
        "effective": dict(winner.candidate.resolved.effective),
        "changed": export.flags_changed(problem.engine.args, winner.candidate.engine.args),
        "command": export.serve_command(winner.candidate.engine),
    }


def _confirmation(found: Confirmation) -> dict[str, Any]:
    return {
        "entrants": [
            {"trial": one.number, "point": dict(one.candidate.point), "load": dict(one.load)} for one in found.finalists
        ],
        "values": {str(who): list(values) for who, values in found.values.items()},
        "gains": {
            str(who): asdict(gain) | {"words": gain.words, "shown": gain.shown} for who, gain in found.gains.items()
        },
        "choice": found.choice,
        "broken": {str(who): list(names) for who, names in found.broken.items()},
        "drift": found.drift_warning,
        "minutes": found.minutes,
        "starts": found.starts,
        "words": found.words,
    }


def _plain(value: Any) -> Any:
    """Values as JSON has them: what is not finite is null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
