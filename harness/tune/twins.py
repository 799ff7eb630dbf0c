"""What does the twin expect of a candidate, in virtual time and before any engine is started?

It has coefficients of its own, not those of the device; how fast the device is it learns from the
first trials. Beyond that only its order is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.errors import HarnessError
from harness.scenario.stages import Stage
from harness.seeds import stream
from harness.tune.calibrating import calibrated
from harness.tune.capacity import CAPACITY, LAST_RATE, around, searched
from harness.tune.configuration import Candidate
from harness.tune.loads import changed
from harness.tune.problem import Problem, Task, Verdict, slo_of, verdict_of
from harness.tune.series import LATENCIES
from harness.tune.virtual import VirtualLoad
from harness.tune.wandering import wander
from harness.tune.words import Measurement
from harness.twin.cost import TERMS, Terms
from harness.twin.settings import Settings, settings_from_flags

OFF = 0.4
"""By how much each coefficient of a screening twin is off, at most, where it stands for another device."""
_COARSE = 0.1  # of a capacity that only ranks candidates
Course = tuple[float, ...]
"""How a load goes, in numbers that are the same where every step is."""


def _course(measured: Measurement) -> Course:
    return (measured.load_s, *(measured.metrics.get(f"{name}_mean", 0.0) for name in LATENCIES))


def perturbed(terms: Terms, seed: int, off: float = OFF) -> Terms:
    """Coefficients each of which is wrong by a factor between 1 - off and 1 + off, drawn by seed."""
    rng = stream(seed, "twin's errors")
    names = Terms.__slots__
    factors = 1 + rng.uniform(-off, off, len(names))
    changes = {name: getattr(terms, name) * float(factor) for name, factor in zip(names, factors, strict=True)}
    return replace(
        terms, **{name: min(value, 1.0) if not name.endswith("_s") else value for name, value in changes.items()}
    )


@dataclass(slots=True)
class Twin:
    """The simulated engine as a cheap source; what it has said is kept until it is calibrated anew."""

    problem: Problem
    terms: Terms
    _said: dict[str, Verdict | None] = field(default_factory=dict)
    _courses: dict[str, Course] = field(default_factory=dict)
    _loads: list[VirtualLoad] = field(default_factory=list)

    def says(self, candidate: Candidate) -> Verdict | None:
        """Values and violations by name; None where it would not start, or cannot serve this."""
        if candidate.key not in self._said:
            measured = self._measured(candidate, self.terms)
            self._said[candidate.key] = None if measured is None else self._verdict(measured)
            if measured is not None:
                self._courses[candidate.key] = tuple(value for one in measured for value in _course(one))
        return self._said[candidate.key]

    def _verdict(self, measured: Sequence[Measurement]) -> Verdict:
        """What is measured in the mean over the paces that runs have, as the one of a trial is not known."""
        told = verdict_of(self.problem, measured)
        if len(measured) > 1:
            return told
        steady = {name: wander(self.problem, measured[0], name) for name in told.values}
        means = {name: one.mean for name, one in steady.items() if one is not None}
        return Verdict({**told.values, **means}, told.violations)

    def course(self, candidate: Candidate) -> Course | None:
        """How its load goes, as a value that is the same for two candidates where every step of theirs is.

        A cache that holds more than is ever asked of it is such a case: whatever the coefficients are, it changes
        nothing. None where the twin would not start.
        """
        self.says(candidate)
        return self._courses.get(candidate.key)

    def calibrate(self, seen: Sequence[tuple[Candidate, Measurement]]) -> None:
        """Fit its speed, from where it is, to trials of one task measured in full; what it said before is forgotten."""
        known = [(one, found) for one, found in seen if not found.stopped]

        def predict(terms: Terms) -> list[Mapping[str, float]]:
            told = [self._measured(candidate, terms, found) for candidate, found in known]
            return [{} if one is None else one[0].metrics for one in told]

        self.terms = calibrated(self.terms, [found.metrics for _, found in known], predict)
        self._said.clear()
        self._courses.clear()

    def _measured(
        self, candidate: Candidate, terms: Terms, like: Measurement | None = None
    ) -> list[Measurement] | None:
        """What its loads show; of a capacity the search, or with `like` one load at that one's last rate."""
        problem, args = self.problem, candidate.engine.args
        model = {} if candidate.engine.model is None else {"model": candidate.engine.model}
        try:
            if not self._loads:
                most = problem.study.screening.requests
                self._loads += [VirtualLoad(t.scenario, t.path.parent, most_requests=most) for t in problem.tasks]
            settings = settings_from_flags({**args, **model})
            return [
                self._shown(load, task, stage_of(task.stage, candidate), _Speed(settings, terms), like)
                for load, task in zip(self._loads, problem.tasks, strict=True)
            ]
        except HarnessError:
            return None

    def _shown(
        self, load: VirtualLoad, task: Task, stage: Stage, speed: "_Speed", like: Measurement | None
    ) -> Measurement:
        seed = self.problem.study.seed

        def at(rate: float | None, _number: int = 0) -> Measurement:
            return load.measure(speed.settings, replace(stage, rate=rate), seed, terms=speed.terms)

        if self.problem.study.objective != (CAPACITY,):
            return at(stage.rate)
        if like is not None:
            return at(like.metrics[LAST_RATE])
        return searched(at, replace(around(stage.rate or 1.0), precision=_COARSE, certain=True), slo_of(task))


@dataclass(frozen=True, slots=True)
class _Speed:
    """An engine in virtual time: its settings, and the coefficients of its step time."""

    settings: Settings
    terms: Terms


def stage_of(stage: Stage, candidate: Candidate) -> Stage:
    """A task's stage as a candidate changes it."""
    return changed(stage, candidate.load)


def twin_of(problem: Problem) -> Twin | None:
    """The twin that screens a problem, None where it is turned off or does not know the model.

    A study on the simulated engine is screened by a twin whose coefficients are off, as a device's would be.
    """
    if problem.study.screening.points == 0:
        return None
    model = {} if problem.engine.model is None else {"model": problem.engine.model}
    try:
        family = settings_from_flags({**problem.engine.args, **model}).device.family
        VirtualLoad(problem.tasks[0].scenario, problem.tasks[0].path.parent)
    except HarnessError:
        return None
    terms = TERMS[family]
    return Twin(problem, perturbed(terms, problem.study.seed) if problem.kind == "simulator" else terms)
