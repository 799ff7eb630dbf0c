"""What do single random requests ask, and what do they share?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.lengths import Lengths
from harness.prompts import Prompt, Reply, Session, Turn
from harness.scenario.workload import Prefix
from harness.workloads.contents import Draws, Medium, Source


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The beginnings that sessions share: each takes one of `groups` at random."""

    source: Source
    tokens: int = 0
    groups: int = 1

    def draws(self, index: int) -> Draws:
        """The beginning of a session: the same draws for all sessions of its group."""
        return self.source.draws(self.tokens, 1, self.group(index))

    def group(self, index: int) -> int:
        """Which beginning a session takes."""
        return self.source.pick(self.groups, 0, index)


def shared_prefix(prefix: Prefix | None, source: Source) -> SharedPrefix:
    """What a scenario says of shared beginnings: none, or so many tokens in so many groups."""
    return SharedPrefix(source) if prefix is None else SharedPrefix(source, prefix.tokens, prefix.groups)


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Random prompts. The prefix is part of the asked length, and at least one token follows it."""

    medium: Medium
    prefix: SharedPrefix
    own: Source
    inputs: Lengths
    outputs: Lengths
    size: int | None = None

    def session(self, index: int) -> Session:
        """One request: the tokens that its prompt and its answer have."""
        input_tokens = self.medium.input_tokens(self._drawn(index), 1)
        return Session(index, (Turn(input_tokens, self.outputs.at(index)),))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:  # noqa: ARG002 - one turn each
        """The prefix of the session's group, then draws of its own."""
        own = self.own.draws(self._drawn(index) - self.prefix.tokens, index)
        if self.prefix.tokens == 0:
            return self.medium.prompt([own])
        return self.medium.prompt([np.concatenate([self.prefix.draws(index), own])])

    def _drawn(self, index: int) -> int:
        return max(self.medium.drawn_tokens(self.inputs.at(index)), self.prefix.tokens + 1)
