"""Which runs stand beside which for one stage: pairs, both sides together, earlier runs of one configuration?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.comparison.estimation import FEWEST_FOR_COVARIATE, Runs
from harness.comparison.history import groups
from harness.comparison.offered import covariate, served, shaped, work_of
from harness.comparison.repeats import Repeat
from harness.scenario.metrics import Measure

_Known = Callable[[Measure, int], float]


@dataclass(frozen=True, slots=True)
class _Standing:
    """A run, the block it stands in, and whose it is."""

    repeat: Repeat
    block: int
    is_new: bool
    own: bool


@dataclass(frozen=True)
class Lineup:
    """The runs of one stage, those compared first."""

    number: int
    standing: Sequence[_Standing]
    unlike: bool
    """Whether runs of one block sent unlike requests."""

    def runs(self, measure: Measure, value_in: Callable[[Repeat], float | None]) -> Runs:
        """Values of a measure (ln of what has a ratio), without earlier runs that have none."""
        found = [(one, _logged(value_in(one.repeat), measure)) for one in self.standing]
        kept = [(place, one, value) for place, (one, value) in enumerate(found) if value is not None]
        known = [self._known(measure, place) for place, _, _ in kept] if self.unlike else [0.0] * len(kept)
        values = np.asarray([value for _, _, value in kept], dtype=np.float64)
        return Runs(
            values,
            np.asarray([one.block for _, one, _ in kept], dtype=np.int64),
            np.asarray([float(one.is_new) for _, one, _ in kept]),
            np.asarray([one.own for _, one, _ in kept], dtype=np.bool_),
            np.asarray(known),
        )

    def is_adjusted(self, runs: Runs) -> bool:
        """Whether a covariate had a say."""
        return self.unlike and len(runs.values) >= FEWEST_FOR_COVARIATE and bool(np.ptp(runs.known) > 0)

    @cached_property
    def _known(self) -> _Known:
        """Ln of what a plain server shows of the requests of each run; 0 for all where one's are not known."""
        works = [work_of(one.repeat, self.number) for one in self.standing]
        known = [work for work in works if work is not None]
        plain = shaped(known) if len(known) == len(works) else None
        if plain is None:
            return lambda _measure, _place: 0.0
        shown = [served(work, plain) for work in known]
        return lambda measure, place: covariate(measure, known[place], shown[place])


def _logged(value: float | None, measure: Measure) -> float | None:
    if value is None or not measure.ratio:
        return value
    return math.log(value) if value > 0 else None


def lined_up(
    base: Sequence[Repeat], new: Sequence[Repeat], number: int, *, paired: bool, earlier: Sequence[Repeat]
) -> Lineup:
    """The runs of both sides, in pairs or together, and earlier ones in blocks of one configuration each."""
    blocks = [list(range(len(side))) if paired else [0] * len(side) for side in (base, new)]
    standing = [
        _Standing(repeat, block, is_new, own=True)
        for side, numbers, is_new in ((base, blocks[0], False), (new, blocks[1], True))
        for repeat, block in zip(side, numbers, strict=True)
        if number in repeat.stages
    ]
    first = max((one.block for one in standing), default=0) + 1
    keys = {repeat.key for repeat in (*base, *new)}
    sent = keys if paired or len(keys) == 1 else None  # one seed all over, or pairs: the load differs in neither
    for place, group in enumerate(groups(earlier, sent)):
        standing += [_Standing(one, first + place, is_new=False, own=False) for one in group if number in one.stages]
    by_block: dict[int, set[object]] = {}
    for one in standing:
        by_block.setdefault(one.block, set()).add(one.repeat.key)
    return Lineup(number, standing, unlike=any(len(keys) > 1 for keys in by_block.values()))
