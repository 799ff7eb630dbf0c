"""The judgement on every measure of every stage: better, worse or no difference, and whether the gate is broken.

How far runs of one configuration differ is estimated from the repeats of both sides (in pairs where they sent the same
requests) and from earlier results of this machine, and never assumed: without either, as with one run a side and no
history, nothing is judged. A gate may state it (`between_runs`); blocks of the requests, or the order of a kernel's
samples, then give the rest of the error. Codes of verdicts stand in compare.json, which programs read.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.analysis.rates import RATES_WINDOW
from harness.analysis.slo import is_cut
from harness.comparison.estimation import StageRuns, detectable_effect, estimate_effect, stage_runs, with_binomial_error
from harness.comparison.measures import StageRows, count_of, in_view, is_spoiled, sample_of, stage_rows, value_of
from harness.comparison.repeats import Repeat, Side, pairs
from harness.kernels.repeats import WRONG
from harness.messages import Message, message
from harness.scenario.gate import Gate
from harness.scenario.metrics import RATES, Measure, measure_of
from harness.scenario.stages import stage_title
from harness.statistics.difference import Effect, Estimand, HolmTest, by_blocks, by_ranks, holm
from harness.statistics.intervals import Floats, samples_needed

BETTER = "better"
WORSE = "worse"
NO_DIFFERENCE = "no difference shown"
UNDETERMINED = "cannot be told"
MOST_DETECTABLE = 2.0
"""The share of a change beyond which the exact size of what can be detected says nothing any more."""
# Of a whole comparison only.
BOTH = "better and worse"
NOT_JUDGED = "cannot be judged"  # a side is not valid

VERDICTS = {
    BETTER: message("comparison.better"),
    WORSE: message("comparison.worse"),
    NO_DIFFERENCE: message("comparison.no_difference"),
    UNDETERMINED: message("comparison.undetermined"),
}
"""Names of the verdicts on a measure."""


SINGLE_RUNS = message("comparison.single_runs")
NOT_VALID = message("comparison.not_valid")
INTERRUPTED = {side: message("comparison.interrupted", side=side) for side in ("BASE", "NEW")}
MACHINE_CHANGED = message("comparison.machine_changed")
ALSO = (
    *("ttft_p50", "ttft_p90", "ttft_p99", "tpot_mean", "tpot_p99", "itl_p99", "e2e_mean", "e2e_p99"),
    *("request_rate", "output_token_rate", "total_token_rate", "input_token_rate", "document_rate", "goodput"),
    "failed_share",
    *("acceptance_rate", "mean_accepted_length", "prefix_hit_rate"),
)
"""What is shown beside what the gate judges."""


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One measure of one stage on both sides.

    `base` and `new` are means over repeats (geometric, but of shares); `low` and `high` hold the
    ratio new / base (of a share: the difference) at the level at which the measure was judged.
    `label` is the load of the stage as summary.json has it, `title` the name of the stage. Of kernels a stage is one
    measurement: both are the heading that it shares with others, `part_name` is its name below that. `allowed` is None
    where the gate does not name the measure; `reason` says why there is no verdict. `detectable` is the smallest change
    (as a share) that four of five such comparisons would find; `adjusted` says that the effect is rid of what the
    sides' unlike requests explain.
    """

    stage: int
    label: str
    title: Message
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
    reason: Message | None = None
    part_name: Message | None = None
    detectable: float | None = None
    adjusted: bool = False

    @property
    def place(self) -> Message:
        """Where it was measured: the name of the stage, or the whole name of a kernel's measurement."""
        if self.part_name is None:
            return self.title
        return message("text.list", items=[*self.label.split(", "), self.part_name])

    @property
    def part(self) -> str:
        """The name of a kernel's measurement below its heading, in English; empty of a load."""
        return "" if self.part_name is None else str(self.part_name)

    @property
    def full_label(self) -> str:
        """The label as compare.json has it: with the part of a kernel's measurement."""
        return f"{self.label}, {self.part}" if self.part else self.label

    @property
    def is_blind(self) -> bool:
        """Whether repeats are so few, or so unlike, that even `1 + MOST_DETECTABLE` times as much may go unseen."""
        is_fall = self.measure.ratio and self.measure.more_is_better
        limit = MOST_DETECTABLE / (1 + MOST_DETECTABLE) if is_fall else MOST_DETECTABLE
        return self.detectable is not None and self.detectable > limit

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
    """Every measure of every stage that both sides have; those of the gate first. `earlier` runs show the noise."""
    paired = pairs(base, new)
    base_repeats, new_repeats = zip(*paired, strict=True) if paired else (base.repeats, new.repeats)
    method = _Method(base_repeats, new_repeats, gate, paired=paired is not None, seed=seed, earlier=earlier)
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
        runs = stage_runs(self.base, self.new, number, paired=self.paired, earlier=self.earlier)
        data = _StageData(_reader(number), runs)
        seen: set[Measure] = set()
        for key in (*self.gate.gate, *ALSO):
            measure = in_view(measure_of(key), load)
            named = replace(measure, key="")
            row = None if named in seen else self._row(number, measure, data)
            seen.add(named)
            if row is not None:
                yield replace(row, allowed=self.gate.gate.get(key))

    def _stage(self, number: int, repeats: Sequence[Repeat]) -> Mapping[str, Any]:
        return next((repeat.stages[number] for repeat in repeats if number in repeat.stages), {})

    def _row(self, number: int, measure: Measure, data: "_StageData") -> ComparisonRow | None:
        """One measure; None where neither side has it."""
        values = [[_value(measure, repeat, number, data.rows) for repeat in side] for side in (self.base, self.new)]
        if all(value is None for side in values for value in side):
            return None
        base, new = (
            sum(count_of(measure, repeat.stages.get(number, {})) for repeat in side) for side in (self.base, self.new)
        )
        stage = self._stage(number, self.new)
        label, part_name = str(stage.get("label") or ""), stage.get("part_name")
        title = stage.get("title") or stage_title(number, stage)
        middles = [_middle(side, measure) for side in values]
        row = ComparisonRow(number, label, title, measure, middles[0], middles[1], (base, new), part_name=part_name)
        missing = (
            self._lost(number)
            or self._cut(number)
            or self._missing(measure, values, row.counts)
            or self._spoiled(number, measure)
        )
        if missing:
            return replace(row, reason=missing)
        effect, reason, adjusted = self._effect(row, data)
        return replace(row, effect=effect, reason=reason, adjusted=adjusted)

    @staticmethod
    def _times(side: Sequence[Repeat], number: int) -> list[Floats]:
        return [repeat.times(repeat.stages[number]) for repeat in side if repeat.times is not None]

    def _lost(self, number: int) -> Message | None:
        """Why a kernel has no times."""
        for name, side in (("BASE", self.base), ("NEW", self.new)):
            lost = next((repeat.stages[number].get("lost") for repeat in side if number in repeat.stages), None)
            if lost:
                status, reason = lost
                code = "comparison.kernel_wrong" if status == WRONG else "comparison.kernel_failed"
                return message(code, side=name, reason=reason)
        return None

    def _cut(self, number: int) -> Message | None:
        """Of a stage that an interruption cut on a side: whose it is."""
        for name, side in (("BASE", self.base), ("NEW", self.new)):
            if any(is_cut(repeat.summary, repeat.stages.get(number) or {}) for repeat in side):
                return INTERRUPTED[name]
        return None

    def _spoiled(self, number: int, measure: Measure) -> Message | None:
        """Of a latency that the client may have spoiled on a side: whose it is."""
        for name, side in (("BASE", self.base), ("NEW", self.new)):
            if any(is_spoiled(measure, repeat.stages.get(number) or {}) for repeat in side):
                return message("comparison.statistic_invalid", side=name)
        return None

    def _missing(
        self, measure: Measure, values: Sequence[Sequence[float | None]], counts: Sequence[int]
    ) -> Message | None:
        for name, side, count in zip(("BASE", "NEW"), values, counts, strict=True):
            if any(value is None for value in side):
                return message("comparison.no_value", side=name)
            if measure.ratio and any(value is not None and value <= 0 for value in side):
                return message("comparison.zero", side=name)
            if count < self.gate.samples:
                return message("comparison.few_samples", side=name, samples=count, needed=self.gate.samples)
        return None

    def _effect(self, row: ComparisonRow, data: "_StageData") -> tuple[Effect | None, Message | None, bool]:
        runs = data.runs.values(row.measure, lambda repeat: _value(row.measure, repeat, row.stage, data.rows))
        effect = estimate_effect(runs)
        if effect is None:
            return *self._of_single_runs(row, data), False
        if not row.measure.ratio:
            assert row.base is not None
            assert row.new is not None
            effect = with_binomial_error(effect, (row.base, row.new), row.counts)
        return effect, None, data.runs.is_adjusted(runs)

    def _of_single_runs(self, row: ComparisonRow, data: "_StageData") -> tuple[Effect | None, Message | None]:
        """Where no run was repeated: by what the gate says that runs differ by, if it does."""
        between = self.gate.between_runs
        if between is None:
            return None, SINGLE_RUNS
        if self.base[0].times is None:
            return self._by_blocks(row.measure, data.rows, between)
        effect = by_ranks(self._times(self.base, row.stage), self._times(self.new, row.stage), between)
        return effect, None if effect else message("comparison.no_interval")

    def _by_blocks(self, measure: Measure, read: "_Reader", between: float) -> tuple[Effect | None, Message | None]:
        rows = [[read(repeat) for repeat in side] for side in (self.base, self.new)]
        if any(stage is None for side in rows for stage in side):
            return None, message("comparison.no_requests")
        samples = [[sample_of(measure, stage) for stage in side if stage is not None] for side in rows]
        needed = samples_needed(float(measure.statistic[1:])) if measure.statistic.startswith("p") else 0
        known = [[sample for sample in side if sample is not None] for side in samples]
        fewest = min((len(sample.values) for side in known for sample in side), default=0)
        if any(sample is None for side in samples for sample in side) or fewest < needed:
            return None, message("comparison.few_values_for", values=fewest, statistic=measure.statistic, needed=needed)
        estimand = Estimand(measure.statistic, measure.ratio)
        effect = by_blocks(known[0], known[1], estimand, paired=self.paired, between=between, seed=self.seed)
        return effect, None if effect is not None else message("comparison.few_values", values=fewest)


_Reader = Callable[[Repeat], StageRows | None]


@dataclass(frozen=True, slots=True)
class _StageData:
    """What of one stage is read once for all measures: its rows by repeat, and its runs."""

    rows: _Reader
    runs: StageRuns


def _reader(number: int) -> _Reader:
    """The rows of one stage of each repeat, read when first asked for."""
    kept: dict[int, StageRows | None] = {}

    def read(repeat: Repeat) -> StageRows | None:
        if id(repeat) not in kept:
            kept[id(repeat)] = stage_rows(repeat, number)
        return kept[id(repeat)]

    return read


def _value(measure: Measure, repeat: Repeat, number: int, read: _Reader) -> float | None:
    """The value that the summary shows; a rate that an earlier version summed up, of other requests, is made anew."""
    stage = repeat.stages.get(number, {})
    value = value_of(measure, stage)
    if value is None or measure.metric not in RATES or RATES_WINDOW in stage:
        return value
    rows = read(repeat)
    sample = None if rows is None else sample_of(measure, rows)
    return value if sample is None else float(sample.values.mean())


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
    judged = [row.judged(NO_DIFFERENCE, alpha) if row.effect is not None else row for row in rows]
    tests = list(_together(rows, alpha, lambda row: worsening(row).p_value(_least(row, gate))))
    for place, test in tests:
        row = rows[place]
        direction = WORSE if worsening(row).estimate > 0 else BETTER
        row = row.judged(direction if test.shown else NO_DIFFERENCE, test.level)
        judged[place] = replace(row, detectable=_detectable(row, gate, alpha / len(tests)))
    return judged


def _detectable(row: ComparisonRow, gate: Gate, alpha: float) -> float:
    """The smallest change for the worse that is found in four of five comparisons, as a share; by Holm's first step."""
    assert row.effect is not None
    least = detectable_effect(row.effect, alpha) + _least(row, gate)
    if not row.measure.ratio:
        return least
    return -math.expm1(-least) if row.measure.more_is_better else math.expm1(min(least, 700.0))


def _least(row: ComparisonRow, gate: Gate) -> float:
    """The smallest relevant difference, on the scale of the effect."""
    return math.log1p(gate.smallest) if row.measure.ratio else gate.smallest


def _broken(rows: Sequence[ComparisonRow], gate: Gate) -> list[ComparisonRow]:
    """Rows marked where they are worse, and by more than the gate allows: a second Holm's procedure, one-sided."""
    marked = [replace(row, broken=True, verdict=WORSE) if _vanished(row) else row for row in rows]
    for place, test in _together(rows, 1 - gate.confidence, lambda row: worsening(row).p_above(_bound(row))):
        marked[place] = replace(marked[place], broken=test.shown and rows[place].verdict == WORSE)
    return marked


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
    lost = row.base is not None and row.new is None and row.counts[0] > 0
    return lost and row.reason not in INTERRUPTED.values()
