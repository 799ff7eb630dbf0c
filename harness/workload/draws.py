"""Random draws that belong to a seed, a name and a place, and the beginnings of prompts that sessions share.

Draw j of a place is a fixed function of the seed, the name and the place, with no state: any prompt is made alone, in
any process, on any numpy, and blocks of many places are made in one vector operation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from harness.messages import message
from harness.scenario.workload import Prefix
from harness.seeds import entropy

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_HALF = np.uint64(32)
_CHUNK = 1 << 13  # so many at a time stay in a core's cache: long prompts in half the time

Draws = NDArray[np.uint64]
"""Random whole numbers below 2**32, one a token."""

_STEPS: Draws = np.arange(1, (1 << 17) + 1, dtype=np.uint64) * np.uint64(_GOLDEN)


def _steps(size: int) -> Draws:
    if size <= len(_STEPS):
        return _STEPS[:size]
    steps: Draws = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return steps


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014), in place."""
    for start in range(0, len(state), _CHUNK):
        piece = state[start : start + _CHUNK]
        piece ^= piece >> np.uint64(30)
        piece *= np.uint64(_FIRST)
        piece ^= piece >> np.uint64(27)
        piece *= np.uint64(_SECOND)
        piece ^= piece >> np.uint64(31)
    return state


def _upper(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The upper 32 bits of each number, in place."""
    numbers >>= _HALF
    return numbers


def _mixed_int(state: int) -> int:
    """The same for one whole number."""
    state = ((state ^ (state >> 30)) * _FIRST) & _MASK
    state = ((state ^ (state >> 27)) * _SECOND) & _MASK
    return state ^ (state >> 31)


@dataclass(frozen=True, slots=True)
class RandomSource:
    """Draws that belong to a seed and a name, reachable by place (such as session and turn)."""

    key: int

    def draws(self, size: int, *place: int) -> Draws:
        """The first `size` draws of a place."""
        return _upper(_mixed(_steps(size) + np.uint64(self._at(place))))

    def blocks(self, names: NDArray[np.int64], size: int, *place: int) -> Draws:
        """`size` draws for each of some named blocks of a place: equal names, equal draws."""
        keys = _mixed(names.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(self._at(place)))
        return _upper(_mixed((keys[:, None] + _steps(size)).reshape(-1)))

    def pick(self, count: int, *place: int) -> int:
        """One of `count` numbers from 0 on, all equally likely."""
        return (self._at(place) >> 32) * count >> 32

    def fraction(self, *place: int) -> float:
        """A number of [0, 1), all equally likely."""
        return (self._at(place) >> 32) / (1 << 32)

    def _at(self, place: tuple[int, ...]) -> int:
        key = self.key
        for number in place:
            key = _mixed_int((key + (number + 1) * _GOLDEN) & _MASK)
        return key


def random_source(seed: int, name: str) -> RandomSource:
    """The source of a seed and a name."""
    return RandomSource(entropy(seed, name) & _MASK)


def below(draws: Draws, count: int) -> NDArray[np.uint64]:
    """Draws scaled to [0, count)."""
    return _upper(draws * np.uint64(count))


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The beginnings that sessions share: each takes one of `groups` at random.

    Where there is a `hit_rate`, a prompt begins with so many whole blocks of its group's beginning that this share of
    all prompts' tokens is found in a prefix cache that holds the beginnings; else with `tokens` tokens of it.
    """

    source: RandomSource
    tokens: int = 0
    groups: int = 1
    hit_rate: float = 0.0
    block_size: int = 1

    def draws(self, index: int) -> Draws:
        """The beginning of a session: the same draws for all sessions of its group."""
        return self.source.draws(self.tokens, 1, self.group(index))

    def begin(self, group: int, tokens: int) -> Draws:
        """The first tokens of a group's beginning."""
        return self.source.draws(tokens, 1, group)

    def shared(self, index: int, drawn: int, input_tokens: int) -> int:
        """How many of a prompt's draws are its group's beginning; `input_tokens` is what the server counts of it.

        A share that is no whole number of blocks is rounded up as often as its remainder says, evenly over the
        sessions, and never to the whole prompt: its last token is always computed.
        """
        if not self.hit_rate:
            return self.tokens
        evenly = (((index + 1) * _GOLDEN) & _MASK) / 2.0**64
        blocks = int(self.hit_rate * input_tokens / self.block_size + evenly)
        return min(blocks, (drawn - 1) // self.block_size) * self.block_size

    def group(self, index: int) -> int:
        """Which beginning a session takes."""
        return self.source.pick(self.groups, 0, index)


def shared_prefix(prefix: Prefix | None, source: RandomSource) -> SharedPrefix:
    """What a scenario says of shared beginnings: none, so many tokens in so many groups, or a share of hits.

    Raises:
        InputError: where a share of hits is asked for, and nobody says what the blocks of the cache are.
    """
    if prefix is None:
        return SharedPrefix(source)
    if prefix.hit_rate is None:
        return SharedPrefix(source, prefix.tokens or 0, prefix.groups)
    if prefix.block_size is None:
        raise InputError(message("workload.block_size_unknown"))
    return SharedPrefix(source, 0, prefix.groups, prefix.hit_rate, prefix.block_size)
