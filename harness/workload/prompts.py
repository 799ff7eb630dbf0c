"""Sessions, prompts and replies, the values that pass between workload and load, and the words of prompts.

On the chat endpoint a prompt is text, and only the server knows its tokens. `calibrate` asks the server's /tokenize
for words that count as one token after any other of them, and for the tokens that its template adds to a message; a
text of n such words then has n tokens, which is verified on random texts before the words are used.
"""

import itertools
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.results.request_table import MISSING
from harness.seeds import stream

USER = "user"
ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session: tokens asked for, and the pause in ns before it.

    `input_tokens` is the whole prompt as the server counts it, history included, or MISSING
    where only the server knows. `parents` are the turns whose answers it waits for, before the pause: None for the turn
    before it; none for one that begins by itself, the pause after the session's begin.
    """

    input_tokens: int
    output_tokens: int
    think_ns: int = 0
    parents: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """One user's requests, in order; most have one."""

    index: int
    turns: tuple[Turn, ...]

    def roots(self) -> list[int]:
        """The turns beside the first that begin by themselves."""
        return [number for number, turn in enumerate(self.turns) if number and turn.parents == ()]

    def freed_by(self, number: int, answered: Container[int]) -> list[int]:
        """The turns that wait for the answer to a turn and, once it is among the `answered`, for no other."""
        return [
            later
            for later in range(number + 1, len(self.turns))
            if number in (parents := self._parents(later)) and all(parent in answered for parent in parents)
        ]

    def _parents(self, number: int) -> tuple[int, ...]:
        parents = self.turns[number].parents
        return (number - 1,) if parents is None else parents


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, eq=False)
class TokenPrompt:
    """A prompt as token ids (int32); `scripted` of them stand for replies whose ids are not known."""

    ids: NDArray[np.int32]
    scripted: int = 0

    @property
    def input_tokens(self) -> int:
        """Its length, exactly."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A prompt as a text; `input_tokens` is MISSING where only the server knows."""

    text: str
    input_tokens: int = MISSING


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A prompt as a chat; `input_tokens` counts the template too, MISSING where only the server knows."""

    messages: tuple[ChatMessage, ...]
    input_tokens: int = MISSING
    scripted: int = 0  # words that stand for replies which never came


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """A chat whose first message of a user carries images, as data URLs; only the server knows their tokens."""

    messages: tuple[ChatMessage, ...]
    images: tuple[str, ...]
    input_tokens: int = MISSING


@dataclass(frozen=True, slots=True, eq=False)
class PooledPrompt:
    """What one request of embeddings, rerank or score holds: documents as token ids (int32) or texts, and a query."""

    documents: tuple[NDArray[np.int32] | str, ...]
    query: str = ""
    input_tokens: int = MISSING


Prompt = TokenPrompt | TextPrompt | ChatPrompt | ImagePrompt | PooledPrompt


@dataclass(frozen=True, slots=True)
class Reply:
    """What an earlier turn of a session was answered; token ids where the server gave them."""

    token_ids: tuple[int, ...] | None
    text: str


Tokenize = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any] | None]]
CountTokens = Callable[..., Awaitable[int]]

_FEWEST_WORDS = 32
_OPENERS_TRIED = 48
_GROUP = 64
_PRIME = 307  # above the number of candidates: steps through it meet every pair of words
_STEPS_A_TEXT = 13
_MOST_CALLS = 2000  # a vocabulary that needs more is not worth the wait
_VERIFIED_WORDS = (1, 2, 17, 300, 1200)
_UNKNOWN = -1

# Short everyday words, which most vocabularies hold whole, and letters for small vocabularies.
_CANDIDATES = """
the of and to in is that for it as was with be by on not he his but at are this have from or had an they
which one you were all her she there would their we him been has when who will no more if out so up said
what its about than into them can only other time new some could these two may first then do any like my
now over such our man me even most made after also did many off before must well back through years much
where your way down should because long each just state those people too mr how little good world make
very year still see own work men day get here old life both between being under three never know same
last another while us might great go come since against right came take used himself few house use place
during high without again home around small however found part school number course war until always away
something fact water less public put think almost hand enough far took head yet better set told nothing
night end why called find going look asked later knew point next program city business give group toward
young let room side social given present several order national second face per form system best love
name line real music air book child car software source code version free license copy terms file data
list text page user key law section a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I
J K L M N O P Q R S T U V W X Y Z
"""
CANDIDATES = tuple(_CANDIDATES.split())


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words of one token each, and the tokens that a chat template adds to them.

    `overhead_tokens` belong to a conversation of one user message, `exchange_tokens` to each
    assistant and user message more. `openers` are the words that a message may begin with.
    Where `exact` is false, n words are only about n tokens.
    """

    words: Sequence[str]
    overhead_tokens: int
    exact: bool
    openers: Sequence[str]
    exchange_tokens: int = 0

    def overhead(self, turns: int) -> int:
        """Tokens that the template adds to a conversation of so many user messages."""
        return self.overhead_tokens + (turns - 1) * self.exchange_tokens


APPROXIMATE = Vocabulary(CANDIDATES, 0, exact=False, openers=CANDIDATES[:_OPENERS_TRIED])


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has: one for 4 ASCII characters or 1.5 others, at least 1."""
    ascii_count = len(text.encode("ascii", "ignore"))
    return max(1, round(ascii_count / 4 + (len(text) - ascii_count) / 1.5))


async def calibrate(tokenize: Tokenize, model: str) -> Vocabulary:
    """The vocabulary of a server's model, found by about a hundred small calls to its /tokenize.

    `tokenize` posts a JSON body to the server's /tokenize and returns its answer, or None where
    there is no such endpoint: then the vocabulary is approximate.
    """
    count = _counter(tokenize, model)
    openers, base = await _openers(count)
    if base == _UNKNOWN:
        return APPROXIMATE
    words = await _words(count, openers, base)
    openers = tuple(word for word in openers if word in words)
    if len(words) < _FEWEST_WORDS or not openers:
        return replace(APPROXIMATE, overhead_tokens=base - 1)
    exchange = await count(openers[:1], openers[:1], openers[:1]) - base - 2
    vocabulary = Vocabulary(words, base - 1, exact=True, openers=openers, exchange_tokens=max(exchange, 0))
    return replace(vocabulary, exact=await _holds(count, vocabulary))


def _counter(tokenize: Tokenize, model: str) -> CountTokens:
    """Tokens of a conversation of messages, each given as its words, by turns of user and assistant."""
    left = itertools.count(_MOST_CALLS, -1)

    async def count(*messages: Sequence[str]) -> int:
        if next(left) <= 0:
            return _UNKNOWN
        conversation = [
            {"role": ASSISTANT if place % 2 else USER, "content": " ".join(words)}
            for place, words in enumerate(messages)
        ]
        answer = await tokenize({"model": model, "messages": conversation, "add_generation_prompt": True})
        tokens = answer.get("count") if isinstance(answer, Mapping) else None
        return tokens if isinstance(tokens, int) else _UNKNOWN

    return count


async def _openers(count: CountTokens) -> tuple[tuple[str, ...], int]:
    """Words that may begin a message, and the tokens of a conversation of one of them."""
    counts: dict[str, int] = {}
    for word in CANDIDATES[:_OPENERS_TRIED]:
        counts[word] = await count([word])
        if counts[word] == _UNKNOWN:
            return (), _UNKNOWN
    base = mode(counts.values())
    return tuple(word for word, tokens in counts.items() if tokens == base), base


async def _words(count: CountTokens, openers: Sequence[str], base: int) -> tuple[str, ...]:
    """Candidates that count as one token after a space, less those that merge with others."""

    async def fits(words: Sequence[str]) -> bool:
        return await count([openers[0], *words]) == base + len(words)

    misfits: set[str] = set()
    for text in itertools.chain(_groups(), _pairs()):
        left = [word for word in text if word not in misfits]
        if left:
            misfits |= await _misfits(fits, left)
    return tuple(word for word in CANDIDATES if word not in misfits)


def _groups() -> Iterator[Sequence[str]]:
    """Each candidate once, a few at a time: finds words of several tokens."""
    return (CANDIDATES[start : start + _GROUP] for start in range(0, len(CANDIDATES), _GROUP))


def _pairs() -> Iterator[Sequence[str]]:
    """Texts in which every candidate follows every other, and itself: finds words that merge.

    Steps of the same size through a prime number of places meet each place once, so step d meets
    all pairs that stand d apart.
    """
    yield [word for word in CANDIDATES for _ in range(2)]
    for first in range(1, _PRIME, _STEPS_A_TEXT):
        steps = range(first, min(first + _STEPS_A_TEXT, _PRIME))
        places = [step * count % _PRIME for step in steps for count in range(_PRIME + 1)]
        yield [CANDIDATES[place] for place in places if place < len(CANDIDATES)]


async def _misfits(fits: Callable[[Sequence[str]], Awaitable[bool]], words: Sequence[str]) -> set[str]:
    """Words that are not one token, and pairs that merge, found by halving a text that does not fit."""
    if await fits(words):
        return set()
    if len(words) == 1:
        return set(words)
    half = len(words) // 2
    misfits = await _misfits(fits, words[:half]) | await _misfits(fits, words[half:])
    return misfits or {words[half - 1], words[half]}


async def _holds(count: CountTokens, vocabulary: Vocabulary) -> bool:
    """Whether random texts of several lengths have exactly the tokens that the vocabulary says."""
    rng = stream(0, "vocabulary")
    for size in _VERIFIED_WORDS:
        opener = vocabulary.openers[int(rng.integers(len(vocabulary.openers)))]
        rest = [vocabulary.words[place] for place in rng.integers(len(vocabulary.words), size=size - 1)]
        if await count([opener, *rest]) != size + vocabulary.overhead_tokens:
            return False
    return True
