"""What do users say in a session of several turns, whose history grows?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.workload.lengths import Lengths
from harness.workload.prompts import Prompt, Reply, Session, Turn
from harness.workload.synthetic import Draws, Medium, Part, SharedPrefix, Source


@dataclass(frozen=True, slots=True)
class Conversation:
    """Sessions of turns: each prompt is the prefix, all messages and replies so far, and a new message.

    A reply that the endpoint cannot be told back (no token ids on completions, no text on chat)
    is replaced by scripted draws of the length that was asked for; the prompt counts them.
    """

    medium: Medium
    prefix: SharedPrefix
    own: Source
    scripted: Source
    turns: Lengths
    inputs: Lengths
    outputs: Lengths
    thinks_ns: Lengths
    size: int | None = None

    def session(self, index: int) -> Session:
        """The turns of a session, as if every answer had the length that is asked for."""
        told: list[Turn] = []
        drawn = self.prefix.tokens
        for turn in range(self.turns.at(index)):
            drawn += self.inputs.at(index, turn)
            output_tokens = self.outputs.at(index, turn)
            think_ns = self.thinks_ns.at(index, turn) if turn else 0
            told.append(Turn(self.medium.input_tokens(drawn, turn + 1), output_tokens, think_ns))
            drawn += output_tokens
        return Session(index, tuple(told))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:
        """The history with the actual `replies` to earlier turns, and the new message."""
        parts: list[Part] = [self._opening(index)]
        for number in range(turn):
            reply = replies[number] if number < len(replies) else None
            if reply is None or not self.medium.carries(reply):
                parts.append(self.scripted.draws(self.outputs.at(index, number), index, number))
            else:
                parts.append(reply)
            parts.append(self._message(index, number + 1))
        return self.medium.prompt(parts)

    def _opening(self, index: int) -> Draws:
        message = self._message(index, 0)
        return message if self.prefix.tokens == 0 else np.concatenate([self.prefix.draws(index), message])

    def _message(self, index: int, turn: int) -> Draws:
        return self.own.draws(self.inputs.at(index, turn), index, turn)
