"""The difference of two sides' runs and its standard error, by a linear model of all runs.

One model for every way in which runs may stand beside each other: each run's value is that of its block (a
pair, both sides together, or earlier runs of one configuration), plus the effect where the run is NEW's, plus what a
covariate explains, plus noise of one size. What runs of one configuration differ by is seen in pairs, in the repeats
of a side and in earlier results alike, and each adds its degrees of freedom. Least squares; Student's t.
"""

import functools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, fdtrc, ndtr

from harness.comparison.control_variate import covariate, fit_server, offered_work, serve_fluid
from harness.comparison.repeats import Repeat
from harness.scenario.metrics import Measure
from harness.statistics.difference import Effect
from harness.statistics.intervals import Floats, student_t

POWER = 0.8  # how often a change of the size that is said to be seen is found
NOISIER = 0.1  # chance below which the runs at hand are called noisier than the earlier ones
FEWEST_FOR_COVARIATE = 6  # runs: with fewer the slope costs more than it explains
_ALIKE = 1e-9
_CHANCES = 64  # quantiles over which the power is averaged


@dataclass(frozen=True, slots=True)
class BlockedRuns:
    """A value a run, in the block it stands in; `is_new` is 1 where it is NEW's, `known` what a covariate says.

    `own` marks the runs that are compared; the others are earlier ones, which show the noise alone.
    """

    values: Floats
    block: NDArray[np.int64]
    is_new: Floats
    own: NDArray[np.bool_]
    known: Floats

    def only(self, chosen: NDArray[np.bool_]) -> "BlockedRuns":
        """Some of the runs."""
        return BlockedRuns(
            self.values[chosen], self.block[chosen], self.is_new[chosen], self.own[chosen], self.known[chosen]
        )


def estimate_effect(runs: BlockedRuns) -> Effect | None:
    """The effect, its error from all runs; None where nothing shows how far two runs of one configuration differ.

    Earlier runs count where those at hand are not shown to be noisier than they were.
    """
    own, whole = _fit(runs.only(runs.own)), _fit(runs)
    if whole is None:
        return None
    if own is None:
        return whole.effect
    if own.dof == whole.dof:
        return own.effect
    earlier_dof = whole.dof - own.dof
    earlier = max(0.0, whole.variance * whole.dof - own.variance * own.dof) / earlier_dof
    if own.variance > 0:
        ratio = own.variance / earlier if earlier else math.inf
        if f_tail(ratio, own.dof, earlier_dof) < NOISIER:
            return own.effect
    return whole.effect


@dataclass(frozen=True, slots=True)
class _Fit:
    effect: Effect
    variance: float
    dof: float


def _fit(runs: BlockedRuns) -> _Fit | None:
    blocks = np.unique(runs.block)
    columns = [*(np.asarray(runs.block == block, dtype=np.float64) for block in blocks), runs.is_new]
    slope = _centred(runs.known, runs.block, runs.is_new)
    if len(runs.values) >= FEWEST_FOR_COVARIATE and float(np.abs(slope).max(initial=0.0)) > _ALIKE:
        columns.append(runs.known)
    design = np.column_stack(columns)
    dof = len(runs.values) - int(np.linalg.matrix_rank(design))
    if dof < 1:
        return None
    inverse = np.linalg.pinv(design.T @ design)
    coefficients = inverse @ (design.T @ runs.values)
    left = runs.values - design @ coefficients
    square = float(left @ left)
    scale = float(runs.values @ runs.values) * _ALIKE**2
    variance = 0.0 if square <= scale else square / dof
    place = len(blocks)
    estimate = 0.0 if abs(coefficients[place]) < _ALIKE else float(coefficients[place])
    return _Fit(Effect(estimate, math.sqrt(variance * float(inverse[place, place])), dof), variance, dof)


def _centred(known: Floats, block: NDArray[np.int64], is_new: Floats) -> Floats:
    """What of a covariate differs between runs that are alike otherwise."""
    left: Floats = known.copy()
    for number in np.unique(block):
        for side in (0.0, 1.0):
            alike = (block == number) & (is_new == side)
            if alike.any():
                left[alike] -= left[alike].mean()
    return left


def with_binomial_error(effect: Effect, shares: tuple[float, float], counts: tuple[int, int]) -> Effect:
    """An effect on a share, its error at least that of independent requests: a run of none failed says nothing."""
    whole = (shares[0] * counts[0] + shares[1] * counts[1]) / max(1, sum(counts))
    least = math.sqrt(whole * (1 - whole) * sum(1 / max(1, count) for count in counts))
    return Effect(effect.estimate, max(effect.error, least), effect.dof)


def f_tail(ratio: float, over: float, under: float) -> float:
    """Probability that Snedecor's F with these degrees of freedom (above, below the line) exceeds a ratio."""
    return float(fdtrc(over, under, ratio))


def detectable_effect(effect: Effect, alpha: float) -> float:
    """How large a true effect has to be to be found in `POWER` of all comparisons of this error, two-sided at `alpha`.

    The error is an estimate itself; the power is the mean over what it may be (chi-squared, `dof`).
    """
    return _detectable(alpha, effect.dof) * effect.error if effect.error else 0.0


@functools.cache
def _detectable(alpha: float, dof: float) -> float:
    reach = student_t(1 - alpha / 2, dof)
    errors = _errors(dof)
    low, high = 0.0, reach * 4 + 4
    for _ in range(50):
        middle = (low + high) / 2
        power = float(ndtr(middle - reach * errors).mean())
        low, high = (middle, high) if power < POWER else (low, middle)
    return high


def _errors(dof: float) -> Floats:
    """Estimated over true standard error at evenly spaced chances, by quantiles of chi-squared."""
    chances = (np.arange(_CHANCES) + 0.5) / _CHANCES
    errors: Floats = np.sqrt(chdtri(dof, chances) / dof)
    return errors


_Known = Callable[[Measure, int], float]


@dataclass(frozen=True, slots=True)
class _PlacedRun:
    """A run, the block it stands in, and whose it is."""

    repeat: Repeat
    block: int
    is_new: bool
    own: bool


@dataclass(frozen=True)
class StageRuns:
    """The runs of one stage, those compared first."""

    number: int
    placed: Sequence[_PlacedRun]
    unlike: bool
    """Whether runs of one block sent unlike requests."""

    def values(self, measure: Measure, value_in: Callable[[Repeat], float | None]) -> BlockedRuns:
        """Values of a measure (ln of what has a ratio), without earlier runs that have none."""
        every = [(run, _logged(value_in(run.repeat), measure)) for run in self.placed]
        kept = [(place, run, value) for place, (run, value) in enumerate(every) if value is not None]
        known = [self._known(measure, place) for place, _, _ in kept] if self.unlike else [0.0] * len(kept)
        values = np.asarray([value for _, _, value in kept], dtype=np.float64)
        return BlockedRuns(
            values,
            np.asarray([run.block for _, run, _ in kept], dtype=np.int64),
            np.asarray([float(run.is_new) for _, run, _ in kept]),
            np.asarray([run.own for _, run, _ in kept], dtype=np.bool_),
            np.asarray(known),
        )

    def is_adjusted(self, runs: BlockedRuns) -> bool:
        """Whether a covariate explains part of the difference."""
        return self.unlike and len(runs.values) >= FEWEST_FOR_COVARIATE and bool(np.ptp(runs.known) > 0)

    @cached_property
    def _known(self) -> _Known:
        """Ln of what a plain server shows of the requests of each run; 0 for all where those of a run are not known."""
        works = [offered_work(run.repeat, self.number) for run in self.placed]
        known = [work for work in works if work is not None]
        server = fit_server(known) if len(known) == len(works) else None
        if server is None:
            return lambda _measure, _place: 0.0
        shown = [serve_fluid(work, server) for work in known]
        return lambda measure, place: covariate(measure, known[place], shown[place])


def _logged(value: float | None, measure: Measure) -> float | None:
    if value is None or not measure.ratio:
        return value
    return math.log(value) if value > 0 else None


def stage_runs(
    base: Sequence[Repeat], new: Sequence[Repeat], number: int, *, paired: bool, earlier: Sequence[Repeat]
) -> StageRuns:
    """The runs of both sides, in pairs or together, and earlier ones in blocks of one configuration each."""
    blocks = [list(range(len(side))) if paired else [0] * len(side) for side in (base, new)]
    placed = [
        _PlacedRun(repeat, block, is_new, own=True)
        for side, numbers, is_new in ((base, blocks[0], False), (new, blocks[1], True))
        for repeat, block in zip(side, numbers, strict=True)
        if number in repeat.stages
    ]
    first = max((run.block for run in placed), default=0) + 1
    keys = {repeat.key for repeat in (*base, *new)}
    sent = keys if paired or len(keys) == 1 else None  # one seed all over, or pairs: the load differs in neither
    for block, group in enumerate(_by_configuration(earlier, sent), first):
        placed += [_PlacedRun(repeat, block, is_new=False, own=False) for repeat in group if number in repeat.stages]
    by_block: dict[int, set[object]] = {}
    for run in placed:
        by_block.setdefault(run.block, set()).add(run.repeat.key)
    return StageRuns(number, placed, unlike=any(len(keys) > 1 for keys in by_block.values()))


def _by_configuration(
    earlier: Iterable[Repeat], sent: set[tuple[str | None, str | None, int]] | None
) -> list[list[Repeat]]:
    """Earlier repeats by configuration, at least two each: what differs within a group is noise.

    `sent` are the payloads and schedules of runs that stand in pairs: groups are then parted by what was sent, and
    those that sent other requests count only where none sent the same, as what they differ by is more.
    """
    alike: dict[str, list[Repeat]] = {}
    for repeat in earlier:
        alike.setdefault(_configuration(repeat), []).append(repeat)
    if sent is not None:
        by_requests: dict[tuple[str, object], list[Repeat]] = {}
        for name, group in alike.items():
            for repeat in group:
                if repeat.key in sent:
                    by_requests.setdefault((name, repeat.key), []).append(repeat)
        parted = [group for group in by_requests.values() if len(group) > 1]
        if parted:
            return parted
    return [group for group in alike.values() if len(group) > 1]


def _configuration(repeat: Repeat) -> str:
    """Flags and versions: what a difference between two runs may come from other than noise."""
    engine, machine = repeat.engine, repeat.run.get("environment") or {}
    parts = [engine.get("asked"), engine.get("effective"), machine.get("packages"), machine.get("host")]
    return json.dumps(parts, sort_keys=True, default=str)
