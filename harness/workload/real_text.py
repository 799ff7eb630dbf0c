"""Real text at exact lengths: passages of a text, cut and joined to as many tokens as were asked for.

Random tokens are as exact and say nothing of what depends on meaning: how many draft tokens a model accepts, first of
all. Before the load the text goes through the server's /tokenize once. Completions are sent its token ids, of which any
run of n has n tokens. A chat is sent text, which the server counts again; there a passage is made of units: words, or a
few that are one token together, each after a space. Tokenizers do not join tokens over such a space, so that the counts
of units add up; that is verified by the server's own count of every unit in its place and of joined ones.

A prompt begins with eight tokens of one place of the text, and goes on at another. Two prompts have more in common only
where both places are the same: of a text with sixty thousand places one pair of prompts in 3.6 billion.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from harness.messages import message
from harness.scenario.files import find_data_file
from harness.scenario.workload import REAL, TextFile
from harness.workload.data_files import read_bytes
from harness.workload.dataset import RowRequirements, read_dataset
from harness.workload.draws import random_source
from harness.workload.prompts import APPROXIMATE, USER, Tokenize, Vocabulary, estimated_tokens
from harness.workload.synthetic import Drawn

OPENING = 8  # tokens of a prompt's first passage
MOST_CHARACTERS = 400_000  # of a text; what a file has beyond them is not used
_PIECE = 3000  # characters that one call of /tokenize is given
_VERIFIED_TOKENS = (2, 17, 300, 1200)
_TEXTS = Path(__file__).with_name("texts")
_HEAD_END = "---\n"  # above it a text that ships names its source and its licence
_AFTER_SENTENCE = re.compile("(?<=[。！？；])(?=[\u4e00-\u9fff\u2018\u201c「『（《])")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPACES = b" \t\n\r\x0b\x0c"


def shipped_text() -> str:
    """The text that ships: an English novel, Chinese stories, and Python."""
    return "\n\n".join(
        (_TEXTS / f"{name}.txt").read_text(encoding="utf-8").partition(_HEAD_END)[2].strip()
        for name in ("english", "chinese", "code")
    )


def file_text(path: Path) -> str:
    """The prompts of a data set (.json, .jsonl) one after another, or a file as it is; at most `MOST_CHARACTERS`.

    Raises:
        InputError: where it cannot be read, or has no text.
    """
    if path.suffix in (".json", ".jsonl"):
        rows = read_dataset(path, RowRequirements(plain_text=False, output_tokens=False)).entries
        text = "\n\n".join(part.content for row in rows for part in row.messages)
    else:
        text = read_bytes(path).decode("utf-8", "replace")
    if not text.strip():
        raise InputError(message("workload.file_empty", path=str(path)))
    return text[:MOST_CHARACTERS]


def text_of(spec: str | TextFile, folder: Path) -> str:
    """The text that a scenario names: that of its file, looked up from `folder`, or the one that ships."""
    return shipped_text() if spec == REAL or isinstance(spec, str) else file_text(find_data_file(spec.path, folder))


@dataclass(frozen=True, slots=True)
class TextMaterial:
    """A text as the server's tokenizer cuts it: token ids, or for a chat units and the tokens of each.

    Where `exact` is false, units have about so many tokens.
    """

    ids: Sequence[int] = ()
    units: Sequence[str] = ()
    counts: Sequence[int] = ()
    exact: bool = True

    @property
    def tokens(self) -> int:
        """How many tokens the text has: longer prompts repeat it."""
        return len(self.ids) or sum(self.counts)

    def sha256(self) -> str:
        """SHA-256 of the text as it is cut."""
        return hashlib.sha256(repr((list(self.ids), list(self.units), list(self.counts))).encode()).hexdigest()


async def token_text(text: str, tokenize: Tokenize, model: str) -> TextMaterial | None:
    """The token ids of a text; None where the server cannot be asked for them."""
    ids: list[int] = []
    for piece in _pieces(text):
        answer = await tokenize({"model": model, "prompt": piece, "add_special_tokens": False})
        tokens = answer.get("tokens") if isinstance(answer, Mapping) else None
        if not isinstance(tokens, list) or not all(type(token) is int and 0 <= token < 1 << 31 for token in tokens):
            return None
        ids += tokens
    return TextMaterial(ids=ids) if ids else None


async def chat_text(text: str, tokenize: Tokenize, model: str, vocabulary: Vocabulary) -> TextMaterial:
    """The units of a text, counted by the server as they stand in a chat; estimated where it cannot be asked."""
    counter = _ChatCounter(tokenize, model, vocabulary)
    units: list[tuple[str, int]] = []
    if vocabulary.exact:
        for piece in _pieces(_with_cuts(text)):
            units += await counter.units(" ".join(piece.split(" ")).strip())
    if not units:
        words = _with_cuts(text).split()
        return TextMaterial(units=words, counts=[estimated_tokens(word) for word in words], exact=False)
    material = TextMaterial(units=[unit for unit, _ in units], counts=[count for _, count in units])
    if await counter.holds(material):
        return material
    return TextMaterial(units=material.units, counts=material.counts, exact=False)


def _with_cuts(text: str) -> str:
    """A text with single spaces between words, and one after each sentence of Chinese, which has none."""
    spaced = _AFTER_SENTENCE.sub(" ", text)
    return re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", spaced)).strip()


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces of about `_PIECE` characters that end before a line or a word."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        if end < len(text):
            cut = max(text.rfind("\n", start + _PIECE // 2, end), text.rfind(" ", start + _PIECE // 2, end))
            end = cut if cut > start else end
        yield text[start:end]
        start = end


@dataclass(frozen=True, slots=True)
class _ChatCounter:
    """Counts text as it stands in a message of a chat, after a word of one token."""

    tokenize: Tokenize
    model: str
    vocabulary: Vocabulary

    async def units(self, text: str) -> list[tuple[str, int]]:
        """The units of a text with their tokens; none where the server counts otherwise than its tokens say."""
        opener = self.vocabulary.openers[0]
        body = {"model": self.model, "prompt": f"{opener} {text}", "add_special_tokens": False}
        answer = await self.tokenize({**body, "return_token_strs": True})
        strings = answer.get("token_strs") if isinstance(answer, Mapping) else None
        if not text or not isinstance(strings, list) or not all(isinstance(string, str) for string in strings):
            return []
        units = aligned_units(f"{opener} {text}", strings)
        if units is None or units[0] != (opener, 1):
            return []
        own = units[1:]
        is_counted = await self._count(f"{opener} {text}") == 1 + sum(count for _, count in own)
        return own if is_counted else []

    async def _count(self, content: str) -> int:
        """Tokens of a message of a chat, without those of the template; -1 where the server does not say."""
        conversation = [{"role": USER, "content": content}]
        answer = await self.tokenize({"model": self.model, "messages": conversation, "add_generation_prompt": True})
        count = answer.get("count") if isinstance(answer, Mapping) else None
        return count - self.vocabulary.overhead(1) if isinstance(count, int) else -1

    async def holds(self, material: TextMaterial) -> bool:
        """Whether messages that are cut and joined have exactly the tokens that were asked for."""
        writer = PassageWriter(material, self.vocabulary)
        source = random_source(0, "text")
        for place, tokens in enumerate(_VERIFIED_TOKENS):
            drawn = Drawn(source.draws(tokens, place), (0, tokens // 2) if tokens > OPENING else (0,))
            if await self._count(writer(drawn)) != tokens:
                return False
        return True


def aligned_units(text: str, strings: Sequence[str]) -> list[tuple[str, int]] | None:
    """The words of a text (split at single spaces) with the tokens of each, from the strings of its tokens.

    Words that share a token are one unit. White space is left out of the comparison, as vocabularies write it in many
    ways. None where the tokens do not spell the text.
    """
    words = text.split(" ")
    sizes = [len(_stripped(word.encode())) for word in words]
    spelled = _stripped(text.encode())
    tokens = next((known for known in _spellings(strings) if b"".join(known) == spelled), None)
    if tokens is None or not all(sizes):
        return None
    begins = [0, *accumulate(map(len, tokens))]  # of each token, in bytes
    clean = set(begins[:-1])
    bounds = [0, *accumulate(sizes)]
    starts = [place for place, bound in enumerate(bounds[:-1]) if bound in clean]
    owners = np.searchsorted([bounds[place] for place in starts], begins[:-1], side="right") - 1
    counts = np.bincount(owners, minlength=len(starts)).tolist()
    return [
        (" ".join(words[first:last]), count)
        for (first, last), count in zip(pairwise([*starts, len(words)]), counts, strict=True)
    ]


def _stripped(data: bytes) -> bytes:
    return data.translate(None, _SPACES)


def _spellings(strings: Sequence[str]) -> Iterator[list[bytes]]:
    """The bytes of tokens without white space, as byte-level vocabularies write them, and as others do."""
    if all(sign in _BYTE_OF for string in strings for sign in string):
        yield [_stripped(bytes(_BYTE_OF[sign] for sign in string)) for string in strings]
    yield [_stripped(_literal(string)) for string in strings]


def _literal(string: str) -> bytes:
    """The bytes of a token of a SentencePiece vocabulary: a mark for each space, and single bytes by number."""
    byte = _BYTE_TOKEN.fullmatch(string)
    return bytes([int(byte[1], 16)]) if byte else string.translate(_SPACE_MARKS).encode()


_SPACE_MARKS = {ord("\u2581"): " ", ord("\u0120"): " "}


def _byte_signs() -> dict[str, int]:
    """The sign that byte-level vocabularies (since GPT-2) write for each byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_signs()


def segments(drawn: Drawn) -> Iterator[tuple[int, int]]:
    """Where each passage of a message begins and ends: each part of it opens with a short one."""
    for start, end in pairwise([*drawn.starts, len(drawn)]):
        opened = min(start + OPENING, end)
        if start < end:
            yield start, opened
        if opened < end:
            yield opened, end


class PassageIds:
    """Messages as runs of the token ids of a text, which goes on from its begin where it ends."""

    def __init__(self, material: TextMaterial) -> None:
        self._ids = np.asarray(material.ids, dtype=np.int32)

    def __call__(self, drawn: Drawn) -> NDArray[np.int32]:
        """The ids of a message, one a draw."""
        size = len(self._ids)
        parts = []
        for start, end in segments(drawn):
            place = int(drawn.draws[start]) * size >> 32
            parts.append(self._ids.take(np.arange(place, place + end - start), mode="wrap"))
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)


class PassageWriter:
    """Messages of a chat as units of a text, of as many tokens as there are draws, after a word that may begin one."""

    def __init__(self, material: TextMaterial, vocabulary: Vocabulary = APPROXIMATE) -> None:
        self._units = list(material.units)
        self._before: NDArray[np.int64] = np.concatenate([[0], np.cumsum(material.counts)]).astype(np.int64)
        self._by_count = {
            int(count): np.flatnonzero(np.asarray(material.counts) == count) for count in set(material.counts)
        }
        self._vocabulary = vocabulary

    def __call__(self, drawn: Drawn) -> str:
        """The text of a message."""
        openers = self._vocabulary.openers
        parts = [openers[int(drawn.draws[0]) * len(openers) >> 32]]
        for start, end in segments(drawn):
            tokens = end - start - (start == 0)
            parts += self._run(int(drawn.draws[start]) * len(self._units) >> 32, tokens)
        return " ".join(parts)

    def _run(self, place: int, tokens: int) -> list[str]:
        """Units from a place on, then such as fill up what is left."""
        parts: list[str] = []
        while tokens:
            end = int(np.searchsorted(self._before, self._before[place] + tokens, side="right")) - 1
            parts += self._units[place:end]
            tokens -= int(self._before[end] - self._before[place])
            if end < len(self._units):
                return parts + list(self._remainder(end, tokens))
            place = 0
        return parts

    def _remainder(self, place: int, tokens: int) -> Iterator[str]:
        """The next units that have just what is left, or the most of it; words of one token where there are none."""
        while tokens:
            count = next((count for count in range(tokens, 0, -1) if count in self._by_count), 0)
            if not count:
                yield self._vocabulary.words[place % len(self._vocabulary.words)]
                count = 1
            else:
                known = self._by_count[count]
                yield self._units[int(known[np.searchsorted(known, place) % len(known)])]
            place, tokens = place + 1, tokens - count
