"""What is better, what is worse, and what breaks the gate?

What runs of one configuration differ by is seen in the repeats of both sides (in pairs where they sent the same
requests) and in earlier results of this machine, and never assumed: where neither tells, as with one run a side and
nothing before it, nothing is judged. Who knows it may say so in the gate (`between_runs`); blocks of the requests, or
the order of a kernel's samples, then tell the rest.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.analysis.metrics import RATES_WINDOW
from harness.comparison.comparability import pairs
from harness.comparison.estimation import StageRuns, detectable_effect, estimate_effect, stage_runs, with_shares
from harness.comparison.measures import StageRows, count_of, in_view, sample_of, stage_rows, value_of
from harness.comparison.repeats import Repeat, Side
from harness.results.stage_names import stage_name
from harness.scenario.gate import Gate
from harness.scenario.metrics import RATES, Measure, measure_of
from harness.statistics.bootstrap import Estimand, by_blocks
from harness.statistics.difference import Effect, HolmTest, by_ranks, holm
from harness.statistics.intervals import Floats, samples_needed

BETTER, WORSE, NO_DIFFERENCE, UNDETERMINED = "better", "worse", "no difference shown", "cannot be told"
SINGLE_RUNS = "one run a side does not tell how far two runs differ"
NOT_VALID = "a side is not valid"
MACHINE_CHANGED = "a plain copy moved as well: the machine was not the same"
ALSO = (
    *("ttft_p50", "ttft_p90", "ttft_p99", "tpot_mean", "tpot_p99", "itl_p99", "e2e_mean", "e2e_p99"),
    *("request_rate", "output_token_rate", "total_token_rate", "goodput", "failed_share"),
)
"""What is shown beside what the gate judges."""


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One measure of one stage on both sides.

    `base` and `new` are means over repeats (geometric, but of shares); `low` and `high` hold the
    ratio new / base (of a share: the difference) at the level at which the measure was judged.
    `allowed` is None where the gate does not name the measure; `reason` says why there is no verdict. Of kernels a
    stage is one measurement: `part` is its name under the label that it shares with others. `sees` is the smallest
    change (as a share) that four of five such comparisons would find; `adjusted` tells that the effect is rid of what
    the sides' unlike requests explain.
    """

    stage: int
    label: str
    measure: Measure
    base: float | None
    new: float | None
    counts: tuple[int, int]
    effect: Effect | None = None
    verdict: str = UNDETERMINED
    low: float | None = None
    high: float | None = None
    allowed: float | None = None
    broken: bool = False
    reason: str = ""
    part: str = ""
    sees: float | None = None
    adjusted: bool = False

    @property
    def place(self) -> str:
        """Where it was measured: the stage by its name, or the whole name of a kernel's measurement."""
        return f"{self.label}, {self.part}" if self.part else self.heading

    @property
    def heading(self) -> str:
        """What it stands under: its stage by its name; of kernels, the label that several share."""
        return self.label if self.part else stage_name(self.stage, self.label)

    @property
    def ratio(self) -> float | None:
        """How many times BASE NEW is, or of a share by how much it differs; also of rows without a verdict."""
        if self.effect is not None:
            return self._shown(self.effect.estimate)
        if self.base is None or self.new is None or (self.measure.ratio and self.base <= 0):
            return None
        return self.new / self.base if self.measure.ratio else self.new - self.base

    def _shown(self, value: float) -> float:
        return _exp(value) if self.measure.ratio else value

    def judged(self, verdict: str, alpha: float) -> "ComparisonRow":
        """The row with its verdict, and the interval at this level."""
        assert self.effect is not None
        low, high = self.effect.interval(alpha)
        return replace(self, verdict=verdict, low=self._shown(low), high=self._shown(high))


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def judge(base: Side, new: Side, gate: Gate, seed: int = 0, earlier: Sequence[Repeat] = ()) -> list[ComparisonRow]:
    """Every measure of every stage that both sides have; those of the gate first. `earlier` runs tell of noise."""
    mated = pairs(base, new)
    base_repeats, new_repeats = zip(*mated, strict=True) if mated else (base.repeats, new.repeats)
    method = _Method(base_repeats, new_repeats, gate, paired=mated is not None, seed=seed, earlier=earlier)
    rows = [row for number in _stages(base, new) for row in method.rows(number)]
    gated = [row for row in rows if row.allowed is not None]
    others = [row for row in rows if row.allowed is None]
    return [*_broken(_verdicts(gated, gate), gate), *_verdicts(others, gate)]


def _stages(base: Side, new: Side) -> list[int]:
    known = set(base.repeats[0].stages) & set(new.repeats[0].stages)
    return sorted(known)


@dataclass(frozen=True, slots=True)
class _Method:
    """How the measures of one comparison are estimated."""

    base: Sequence[Repeat]
    new: Sequence[Repeat]
    gate: Gate
    paired: bool
    seed: int
    earlier: Sequence[Repeat]

    def rows(self, number: int) -> Iterator[ComparisonRow]:
        load = self._stage(number, self.new).get("load") or {}
        read = _Read(_reader(number), stage_runs(self.base, self.new, number, paired=self.paired, earlier=self.earlier))
        seen: set[Measure] = set()
        for key in (*self.gate.gate, *ALSO):
            measure = in_view(measure_of(key), load)
            named = replace(measure, key="")
            row = None if named in seen else self._row(number, measure, read)
            seen.add(named)
            if row is not None:
                yield replace(row, allowed=self.gate.gate.get(key))

    def _stage(self, number: int, repeats: Sequence[Repeat]) -> Mapping[str, Any]:
        return next((repeat.stages[number] for repeat in repeats if number in repeat.stages), {})

    def _row(self, number: int, measure: Measure, read: "_Read") -> ComparisonRow | None:
        """One measure; None where neither side has it."""
        values = [[_value(measure, repeat, number, read.rows) for repeat in side] for side in (self.base, self.new)]
        if all(value is None for side in values for value in side):
            return None
        counts = [sum(count_of(measure, one.stages.get(number, {})) for one in side) for side in (self.base, self.new)]
        stage = self._stage(number, self.new)
        label = str(stage.get("label") or "")
        middles = [_middle(side, measure) for side in values]
        row = ComparisonRow(
            number, label, measure, middles[0], middles[1], (counts[0], counts[1]), part=stage.get("part", "")
        )
        missing = self._lost(number) or self._missing(measure, values, counts)
        if missing:
            return replace(row, reason=missing)
        effect, reason, adjusted = self._effect(row, read)
        return replace(row, effect=effect, reason=reason, adjusted=adjusted)

    @staticmethod
    def _times(side: Sequence[Repeat], number: int) -> list[Floats]:
        return [repeat.times(repeat.stages[number]) for repeat in side if repeat.times is not None]

    def _lost(self, number: int) -> str:
        """Why a kernel has no times."""
        for name, side in (("BASE", self.base), ("NEW", self.new)):
            lost = next((one.stages[number].get("lost") for one in side if number in one.stages), None)
            if lost:
                return f"{name} {lost}"
        return ""

    def _missing(self, measure: Measure, values: Sequence[Sequence[float | None]], counts: Sequence[int]) -> str:
        names = ("BASE", "NEW")
        for name, side, count in zip(names, values, counts, strict=True):
            if any(value is None for value in side):
                return f"{name} has no value"
            if measure.ratio and any(value is not None and value <= 0 for value in side):
                return f"{name} is 0, which has no ratio"
            if count < self.gate.samples:
                return f"{name} has {count} of at least {self.gate.samples}"
        return ""

    def _effect(self, row: ComparisonRow, read: "_Read") -> tuple[Effect | None, str, bool]:
        runs = read.lineup.runs(row.measure, lambda one: _value(row.measure, one, row.stage, read.rows))
        effect = estimate_effect(runs)
        if effect is None:
            return *self._alone(row, read), False
        if not row.measure.ratio:
            assert row.base is not None
            assert row.new is not None
            effect = with_shares(effect, (row.base, row.new), row.counts)
        return effect, "", read.lineup.is_adjusted(runs)

    def _alone(self, row: ComparisonRow, read: "_Read") -> tuple[Effect | None, str]:
        """Where no run was repeated: by what the gate says that runs differ by, if it does."""
        between = self.gate.between_runs
        if between is None:
            return None, SINGLE_RUNS
        if self.base[0].times is None:
            return self._by_blocks(row.measure, read.rows, between)
        effect = by_ranks(self._times(self.base, row.stage), self._times(self.new, row.stage), between)
        return effect, "" if effect else "too few samples for an interval"

    def _by_blocks(self, measure: Measure, read: "_Reader", between: float) -> tuple[Effect | None, str]:
        rows = [[read(repeat) for repeat in side] for side in (self.base, self.new)]
        if any(one is None for side in rows for one in side):
            return None, "the requests behind it are not known"
        samples = [[sample_of(measure, one) for one in side if one is not None] for side in rows]
        needed = samples_needed(float(measure.statistic[1:])) if measure.statistic.startswith("p") else 0
        known = [[one for one in side if one is not None] for side in samples]
        fewest = min((len(one.values) for side in known for one in side), default=0)
        if any(one is None for side in samples for one in side) or fewest < needed:
            return None, f"{fewest} values are too few for {measure.statistic} (it takes {needed})"
        asked = Estimand(measure.statistic, measure.ratio)
        effect = by_blocks(known[0], known[1], asked, paired=self.paired, between=between, seed=self.seed)
        return effect, "" if effect is not None else f"{fewest} values are too few"


_Reader = Callable[[Repeat], StageRows | None]


@dataclass(frozen=True, slots=True)
class _Read:
    """What of one stage is read once for all measures: its rows by repeat, and its runs beside each other."""

    rows: _Reader
    lineup: StageRuns


def _reader(number: int) -> _Reader:
    """The rows of one stage of each repeat, read when first asked for."""
    kept: dict[int, StageRows | None] = {}

    def read(repeat: Repeat) -> StageRows | None:
        if id(repeat) not in kept:
            kept[id(repeat)] = stage_rows(repeat, number)
        return kept[id(repeat)]

    return read


def _value(measure: Measure, repeat: Repeat, number: int, read: _Reader) -> float | None:
    """The value that the summary shows; a rate that an earlier version summed up, of other requests, is told anew."""
    stage = repeat.stages.get(number, {})
    found = value_of(measure, stage)
    if found is None or measure.metric not in RATES or RATES_WINDOW in stage:
        return found
    rows = read(repeat)
    sample = None if rows is None else sample_of(measure, rows)
    return found if sample is None else float(sample.values.mean())


def _middle(values: Sequence[float | None], measure: Measure) -> float | None:
    known = np.asarray([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return None
    if measure.ratio and (known > 0).all():
        return float(np.exp(np.log(known).mean()))
    return float(known.mean())


def worsening(row: ComparisonRow) -> Effect:
    """The effect with its sign turned so that more is worse."""
    assert row.effect is not None
    return row.effect.turned() if row.measure.more_is_better else row.effect


def _verdicts(rows: Sequence[ComparisonRow], gate: Gate) -> list[ComparisonRow]:
    """Rows with verdicts; all that can be judged are judged together, by Holm's procedure."""
    alpha = 1 - gate.confidence
    found = [row.judged(NO_DIFFERENCE, alpha) if row.effect is not None else row for row in rows]
    judged = list(_together(rows, alpha, lambda row: worsening(row).p_value(_least(row, gate))))
    for place, one in judged:
        way = WORSE if worsening(rows[place]).estimate > 0 else BETTER
        row = rows[place].judged(way if one.shown else NO_DIFFERENCE, one.level)
        found[place] = replace(row, sees=_sees(row, gate, alpha / len(judged)))
    return found


def _sees(row: ComparisonRow, gate: Gate, alpha: float) -> float:
    """The smallest change for the worse that is found in four of five comparisons, as a share; by Holm's first step."""
    assert row.effect is not None
    least = detectable_effect(row.effect, alpha) + _least(row, gate)
    if not row.measure.ratio:
        return least
    return -math.expm1(-least) if row.measure.more_is_better else math.expm1(min(least, 700.0))


def _least(row: ComparisonRow, gate: Gate) -> float:
    """The smallest difference worth telling, on the scale of the effect."""
    return math.log1p(gate.smallest) if row.measure.ratio else gate.smallest


def _broken(rows: Sequence[ComparisonRow], gate: Gate) -> list[ComparisonRow]:
    """Rows marked where they are worse, and by more than the gate allows: a second Holm's procedure, one-sided."""
    found = [replace(row, broken=True, verdict=WORSE) if _vanished(row) else row for row in rows]
    for place, one in _together(rows, 1 - gate.confidence, lambda row: worsening(row).p_above(_bound(row))):
        found[place] = replace(found[place], broken=one.shown and rows[place].verdict == WORSE)
    return found


def _together(
    rows: Sequence[ComparisonRow], alpha: float, p_of: Callable[[ComparisonRow], float]
) -> Iterator[tuple[int, HolmTest]]:
    """Holm's procedure over the rows in which there is something to test; with each, its place."""
    tested = [place for place, row in enumerate(rows) if row.effect is not None and not row.effect.is_nothing]
    return zip(tested, holm([p_of(rows[place]) for place in tested], alpha), strict=True)


def _bound(row: ComparisonRow) -> float:
    """What the gate allows, on the scale of the effect."""
    allowed = row.allowed or 0.0
    if not row.measure.ratio:
        return allowed
    return -math.log1p(-allowed) if row.measure.more_is_better else math.log1p(allowed)


def _vanished(row: ComparisonRow) -> bool:
    """Whether there is a value on the base's side and none on the new one's: nothing was answered any more."""
    return row.base is not None and row.new is None and row.counts[0] > 0
