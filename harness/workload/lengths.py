"""Lengths of messages and answers, and pauses between turns, as random draws.

Draw (index, turn) of a name depends on nothing but the seed, the name and those two numbers:
not on how many are drawn, in what order, or in which process.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from harness.messages import message
from harness.scenario.workload import (
    MOST_TOKENS,
    ChoiceItem,
    CountSpec,
    Exponential,
    LogNormalItem,
    NormalItem,
    ThinkTime,
    UniformItem,
)
from harness.seeds import stream
from harness.units import NS_PER_S, seconds_to_ns

BLOCK = 1024
_KEPT_BLOCKS = 256  # 2 MB; indices are asked for about in order

Sampler = Callable[[np.random.Generator, int], NDArray[np.int64]]


class Lengths:
    """Whole numbers drawn in blocks, each block from a generator of its own."""

    def __init__(self, sample: Sampler, seed: int, name: str) -> None:
        self._sample = sample
        self._seed = seed
        self._name = name
        self._blocks: dict[tuple[int, int], list[int]] = {}

    def at(self, index: int, turn: int = 0) -> int:
        """Draw number `index` (of turn `turn`, where there are several)."""
        number, place = divmod(index, BLOCK)
        block = self._blocks.get((turn, number))
        return (self._draw(turn, number) if block is None else block)[place]

    def _draw(self, turn: int, number: int) -> list[int]:
        drawn = self._sample(stream(self._seed, self._name, turn, number), BLOCK)
        if len(self._blocks) >= _KEPT_BLOCKS:
            del self._blocks[next(iter(self._blocks))]
        block: list[int] = drawn.tolist()
        self._blocks[turn, number] = block
        return block


NO_TOKENS = Lengths(lambda _rng, size: np.zeros(size, dtype=np.int64), 0, "none")
"""Lengths of answers that have no tokens."""


def token_lengths(count: CountSpec, seed: int, name: str) -> Lengths:
    """Numbers of tokens (or turns) as a scenario's count says, each at least 1.

    Raises:
        InputError: from `at`, where an unbounded distribution draws over ten million.
    """

    def sample(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        drawn = _sample_count(count, rng, size)
        if np.max(drawn) > MOST_TOKENS:
            raise InputError(
                message("workload.drawn_too_large", name=name, value=float(np.max(drawn)), most=MOST_TOKENS)
            )
        return drawn.astype(np.int64)

    return Lengths(sample, seed, name)


def think_times_ns(think: ThinkTime | None, seed: int, name: str) -> Lengths:
    """Pauses in ns: none, fixed, or exponential with a mean."""

    def sample(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        if isinstance(think, Exponential):
            return np.rint(rng.exponential(think.exponential, size) * NS_PER_S).astype(np.int64)
        return np.full(size, seconds_to_ns(think or 0.0), dtype=np.int64)

    return Lengths(sample, seed, name)


def _sample_count(count: CountSpec, rng: np.random.Generator, size: int) -> NDArray[np.float64 | np.int64]:
    """Draws of a count before they are checked and made whole numbers."""
    if isinstance(count, UniformItem):
        return rng.integers(count.uniform[0], count.uniform[1] + 1, size)
    if isinstance(count, NormalItem):
        normal = count.normal
        return _kept(rng.normal(normal.mean, normal.sd, size), normal.min, normal.max)
    if isinstance(count, LogNormalItem):
        lognormal = count.lognormal
        drawn = rng.lognormal(np.log(lognormal.median), lognormal.sigma, size)
        return _kept(drawn, lognormal.min, lognormal.max)
    if isinstance(count, ChoiceItem):
        weights = np.array(count.choice.weights or [1.0] * len(count.choice.values))
        return rng.choice(np.array(count.choice.values), size, p=weights / weights.sum())
    return np.full(size, count, dtype=np.int64)


def _kept(drawn: NDArray[np.float64], least: int, most: int | None) -> NDArray[np.float64]:
    return np.clip(np.rint(drawn), least, most)
