"""What do requests ask that somebody else's users asked: prompts of a data set, or lengths of a trace?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.results.request_table import MISSING
from harness.workload.dataset import Entry
from harness.workload.lengths import Lengths
from harness.workload.prompts import Messages, Prompt, Reply, Session, Text, Turn
from harness.workload.synthetic import Draws, Medium, Source
from harness.workload.trace import Trace


@dataclass(frozen=True, slots=True)
class Replayed:
    """The prompts of a data set, then from the first again; only the server knows their tokens."""

    entries: tuple[Entry, ...]
    chat: bool
    outputs: Lengths | None

    @property
    def size(self) -> int:
        """How many prompts there are."""
        return len(self.entries)

    def session(self, index: int) -> Session:
        """One request; only the length of its answer is known."""
        entry = self.entries[index % len(self.entries)]
        output_tokens = entry.output_tokens if self.outputs is None else self.outputs.at(index)
        return Session(index, (Turn(MISSING, output_tokens),))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:  # noqa: ARG002 - one turn each
        """The prompt as it stands in the file."""
        entry = self.entries[index % len(self.entries)]
        if self.chat:
            return Messages(entry.messages)
        return Text(entry.messages[0].content)


@dataclass(frozen=True, slots=True)
class Retraced:
    """Requests with the lengths of a trace, which share what the recorded ones shared.

    Session i takes row i modulo the rows. When the rows begin again their blocks get new
    contents, so that a second pass does not find the first in the server's cache.
    """

    trace: Trace
    medium: Medium
    shared: Source
    own: Source
    size: int | None = None

    @property
    def due_ns(self) -> NDArray[np.int64]:
        """When each row arrived, in ns from the first."""
        return self.trace.due_ns

    def session(self, index: int) -> Session:
        """One request, with its row's lengths."""
        row = index % len(self.trace)
        input_tokens = self.medium.input_tokens(self._drawn(row), 1)
        return Session(index, (Turn(input_tokens, int(self.trace.output_tokens[row])),))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:  # noqa: ARG002 - one turn each
        """The blocks that the row's hashes name, cut to its length; what no hash names is its own."""
        drawn = self._drawn(index % len(self.trace))
        known = self._blocks(index, drawn)
        own = self.own.draws(drawn - len(known), index)
        return self.medium.prompt([np.concatenate([known, own]) if len(known) else own])

    def _drawn(self, row: int) -> int:
        return self.medium.drawn_tokens(int(self.trace.input_tokens[row]))

    def _blocks(self, index: int, drawn: int) -> Draws:
        round_, row = divmod(index, len(self.trace))
        if self.trace.hash_ids is None:
            return np.empty(0, dtype=np.uint64)
        size = self.trace.block_tokens
        names = self.trace.hash_ids[row][: -(-drawn // size)]
        return self.shared.blocks(names, size, round_)[:drawn]
