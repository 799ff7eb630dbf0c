"""Random prompts, of single requests and of conversations: draws, as token ids or as words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.results.request_table import MISSING
from harness.workload.draws import Draws, RandomSource, SharedPrefix, below
from harness.workload.lengths import Lengths
from harness.workload.prompts import (
    ASSISTANT,
    USER,
    ChatMessage,
    ChatPrompt,
    PooledPrompt,
    Prompt,
    Reply,
    Session,
    TokenPrompt,
    Turn,
    Vocabulary,
    estimated_tokens,
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A message as draws, one a token, in parts that begin at `starts`: what prompts share is a part of its own."""

    draws: Draws
    starts: Sequence[int] = (0,)

    def __len__(self) -> int:
        return len(self.draws)


def joined(*parts: Draws) -> Drawn:
    """A message of these parts, without those that are empty."""
    known = [part for part in parts if len(part)]
    if len(known) < 2:
        return Drawn(known[0] if known else parts[0])
    starts = np.cumsum([0, *(len(part) for part in known[:-1])]).tolist()
    return Drawn(np.concatenate(known), starts)


PromptPart = Drawn | Reply
"""A message that was drawn, or a reply that came."""


class PromptMedium(Protocol):
    """How draws are told to an endpoint, and how many tokens they are there."""

    @property
    def exact(self) -> bool:
        """Whether a prompt has exactly the tokens that are asked for."""

    def drawn_tokens(self, input_tokens: int) -> int:
        """How many draws make a single prompt of so many tokens, at least 1."""

    def input_tokens(self, drawn: int, turns: int) -> int:
        """How many tokens the server counts in a prompt of so many draws and replies, in so many turns."""

    def carries(self, reply: Reply) -> bool:
        """Whether a reply can be told back to this endpoint."""

    def prompt(self, parts: Sequence[PromptPart]) -> Prompt:
        """The prompt that is made of a message, a reply, a message, …; replies that never came are draws."""


@dataclass(frozen=True, slots=True)
class RandomIds:
    """Draws as token ids of [low, low + span)."""

    low: int
    span: int

    def __call__(self, drawn: Drawn) -> NDArray[np.int32]:
        """The ids of a message, one a draw."""
        ids = below(drawn.draws, self.span).astype(np.int32)
        ids += np.int32(self.low)
        return ids


@dataclass(frozen=True, slots=True)
class TokenMedium:
    """Draws as the token ids that `write` gives, one a draw."""

    write: Callable[[Drawn], NDArray[np.int32]]
    exact: bool = True

    def drawn_tokens(self, input_tokens: int) -> int:
        """One draw a token."""
        return input_tokens

    def input_tokens(self, drawn: int, turns: int) -> int:  # noqa: ARG002 - a chat's turns cost tokens
        """One token a draw."""
        return drawn

    def carries(self, reply: Reply) -> bool:
        """Only where the server gave its ids."""
        return reply.token_ids is not None

    def prompt(self, parts: Sequence[PromptPart]) -> TokenPrompt:
        """All parts one after the other."""
        ids = [self._ids(part) for part in parts]
        scripted = sum(len(part) for part in parts[1::2] if isinstance(part, Drawn))
        return TokenPrompt(ids[0] if len(ids) == 1 else np.concatenate(ids), scripted)

    def _ids(self, part: PromptPart) -> NDArray[np.int32]:
        if isinstance(part, Reply):
            return np.array(part.token_ids, dtype=np.int32)
        return self.write(part)


class RandomWords:
    """Draws as words of a vocabulary, the first one that may begin a message."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._words = np.array(vocabulary.words, dtype=object)

    def __call__(self, drawn: Drawn) -> str:
        """The text of a message, a word a draw."""
        words = self._words[below(drawn.draws, len(self._words))].tolist()
        words[0] = self._vocabulary.openers[int(drawn.draws[0]) * len(self._vocabulary.openers) >> 32]
        return " ".join(words)


class WordMedium:
    """Draws as messages of a chat, with the words that `write` gives, by default random ones of a vocabulary."""

    def __init__(
        self, vocabulary: Vocabulary, write: Callable[[Drawn], str] | None = None, *, exact: bool = True
    ) -> None:
        self.exact = vocabulary.exact and exact
        self._vocabulary = vocabulary
        self._write = write or RandomWords(vocabulary)

    def drawn_tokens(self, input_tokens: int) -> int:
        """One draw a token that the template does not take."""
        return max(1, input_tokens - self._vocabulary.overhead(1))

    def input_tokens(self, drawn: int, turns: int) -> int:
        """One token a draw, and those of the template."""
        return drawn + self._vocabulary.overhead(turns)

    def carries(self, reply: Reply) -> bool:
        """Only where it has a text."""
        return bool(reply.text)

    def prompt(self, parts: Sequence[PromptPart]) -> ChatPrompt:
        """A message a part, by turns of user and assistant."""
        messages = tuple(
            ChatMessage(ASSISTANT if place % 2 else USER, self._text(part)) for place, part in enumerate(parts)
        )
        drawn = sum(_tokens_of(part) for part in parts)
        scripted = sum(len(part) for part in parts[1::2] if isinstance(part, Drawn))
        return ChatPrompt(messages, self.input_tokens(drawn, (len(parts) + 1) // 2), scripted)

    def _text(self, part: PromptPart) -> str:
        return part.text if isinstance(part, Reply) else self._write(part)


def _tokens_of(part: PromptPart) -> int:
    if not isinstance(part, Reply):
        return len(part)
    return estimated_tokens(part.text) if part.token_ids is None else len(part.token_ids)


@dataclass(frozen=True, slots=True)
class SyntheticContents:
    """Random prompts. The prefix is part of the asked length, and at least one token follows it."""

    medium: PromptMedium
    prefix: SharedPrefix
    own: RandomSource
    inputs: Lengths
    outputs: Lengths
    size: int | None = None

    def session(self, index: int) -> Session:
        """One request: the tokens that its prompt and its answer have."""
        input_tokens = self.medium.input_tokens(self._drawn(index), 1)
        return Session(index, (Turn(input_tokens, self.outputs.at(index)),))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:  # noqa: ARG002 - one turn each
        """The prefix of the session's group, then draws of its own."""
        drawn = self._drawn(index)
        shared = self.prefix.shared(index, drawn, self.medium.input_tokens(drawn, 1))
        own = self.own.draws(drawn - shared, index)
        if shared == 0:
            return self.medium.prompt([Drawn(own)])
        return self.medium.prompt([joined(self.prefix.begin(self.prefix.group(index), shared), own)])

    def _drawn(self, index: int) -> int:
        return max(self.medium.drawn_tokens(self.inputs.at(index)), self.prefix.tokens + 1)


_SEEN_LENGTHS = 4096  # sessions whose lengths are looked at for the longest beginning


@dataclass(frozen=True, slots=True)
class PrimingContents:
    """One request for each beginning that prompts share, as long as the longest; its answer has one token."""

    medium: PromptMedium
    prefix: SharedPrefix
    inputs: Lengths

    @property
    def size(self) -> int:
        """One for each group."""
        return self.prefix.groups

    def session(self, index: int) -> Session:
        """The request of a group."""
        return Session(index, (Turn(self.medium.input_tokens(self._drawn(), 1), 1),))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:  # noqa: ARG002 - one turn each
        """The beginning of a group."""
        return self.medium.prompt([Drawn(self.prefix.begin(index, self._drawn()))])

    def _drawn(self) -> int:
        """Tokens of the longest beginning, a whole number of blocks."""
        longest = self.medium.drawn_tokens(max(self.inputs.at(index) for index in range(_SEEN_LENGTHS)))
        size = self.prefix.block_size
        blocks = -(-self.prefix.hit_rate * self.medium.input_tokens(longest, 1) // size)
        return max(1, min(int(blocks), (longest - 1) // size)) * size


@dataclass(frozen=True, slots=True)
class ConversationContents:
    """Sessions of turns: each prompt is the prefix, all messages and replies so far, and a new message.

    A reply that the endpoint cannot be told back (no token ids on completions, no text on chat)
    is replaced by scripted draws of the length that was asked for; the prompt counts them.
    """

    medium: PromptMedium
    prefix: SharedPrefix
    own: RandomSource
    scripted: RandomSource
    turns: Lengths
    inputs: Lengths
    outputs: Lengths
    thinks_ns: Lengths
    size: int | None = None

    def session(self, index: int) -> Session:
        """The turns of a session, as if every answer had the length that is asked for."""
        turns: list[Turn] = []
        drawn = self.prefix.tokens
        for turn in range(self.turns.at(index)):
            drawn += self.inputs.at(index, turn)
            output_tokens = self.outputs.at(index, turn)
            think_ns = self.thinks_ns.at(index, turn) if turn else 0
            turns.append(Turn(self.medium.input_tokens(drawn, turn + 1), output_tokens, think_ns))
            drawn += output_tokens
        return Session(index, tuple(turns))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:
        """The history with the actual `replies` to earlier turns, and the new message."""
        parts: list[PromptPart] = [self._opening(index)]
        for number in range(turn):
            reply = replies[number] if number < len(replies) else None
            if reply is None or not self.medium.carries(reply):
                parts.append(Drawn(self.scripted.draws(self.outputs.at(index, number), index, number)))
            else:
                parts.append(reply)
            parts.append(Drawn(self._message(index, number + 1)))
        return self.medium.prompt(parts)

    def _opening(self, index: int) -> Drawn:
        message = self._message(index, 0)
        return Drawn(message) if self.prefix.tokens == 0 else joined(self.prefix.draws(index), message)

    def _message(self, index: int, turn: int) -> Draws:
        return self.own.draws(self.inputs.at(index, turn), index, turn)


@dataclass(frozen=True, slots=True)
class DocumentContents:
    """Requests of embeddings, rerank or score: random documents of drawn numbers and lengths.

    As token ids (embeddings) each begins with the prefix of its request's group; as words there is a query beside them,
    and only the server knows the tokens: it joins each document to the query by marks of its own.
    """

    medium: PromptMedium
    prefix: SharedPrefix
    own: RandomSource
    counts: Lengths
    lengths: Lengths
    queries: Lengths | None = None  # None: there is no query
    size: int | None = None

    def session(self, index: int) -> Session:
        """One request, whose answer has no tokens."""
        input_tokens = MISSING if self.queries is not None else sum(self._sizes(index))
        return Session(index, (Turn(input_tokens, 0),))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:  # noqa: ARG002 - one turn each
        """The documents of the request, and its query."""
        prefix, sizes = self.prefix.draws(index), self._sizes(index)
        drawn = (self.own.draws(size - len(prefix), index, place) for place, size in enumerate(sizes))
        documents = tuple(self._document(joined(prefix, own)) for own in drawn)
        if self.queries is None:
            return PooledPrompt(documents, "", sum(sizes))
        query = self._document(Drawn(self.own.draws(self.queries.at(index), index, len(sizes))))
        return PooledPrompt(documents, str(query))

    def _sizes(self, index: int) -> list[int]:
        least = self.prefix.tokens + 1
        return [max(least, self.lengths.at(index, place)) for place in range(self.counts.at(index))]

    def _document(self, drawn: Drawn) -> NDArray[np.int32] | str:
        prompt = self.medium.prompt([drawn])
        return prompt.ids if isinstance(prompt, TokenPrompt) else prompt.messages[0].content  # type: ignore[union-attr] # words make a chat
