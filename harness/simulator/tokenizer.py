"""The simulated tokenizer: from text to token ids and back.

A word is a token: runs of up to twelve letters, signs or digits that no space parts, and every
CJK character by itself. The word `t` and a number is the token of that id, so an answer
that comes back as part of a later prompt has the ids it had; other words get an id by CRC-32.
Output tokens are drawn from the prompt alone, as greedy decoding would: equal prompts, equal answers.
"""

import re
import zlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from harness.simulator.scheduler import Draw

SPECIAL = 16  # ids at the end of the vocabulary that no word gets
MESSAGE_OVERHEAD = 5  # start, role, newline … end, newline around each message of a chat
ANSWER_OVERHEAD = 3  # start, role, newline before the answer
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uffef"
_WORD = re.compile(f"[{_CJK}]|[^\\s{_CJK}]{{1,12}}")
_NUMBERED = re.compile(r"t(\d{1,7})")
_STRIDE = 7919


def words(text: str) -> list[str]:
    """The text cut into the pieces that become tokens."""
    return _WORD.findall(text)


def pieces(text: str) -> list[str]:
    """The same with `Ġ` before each word that a space precedes, as byte-level vocabularies write it."""
    return [
        ("Ġ" if match.start() and text[match.start() - 1].isspace() else "") + match.group()
        for match in _WORD.finditer(text)
    ]


def encode(text: str, vocab: int) -> list[int]:
    """Token ids of a text, each below vocab - 16."""
    usable = vocab - SPECIAL
    return [_word_id(word, usable) for word in words(text)]


def _word_id(word: str, usable: int) -> int:
    numbered = _NUMBERED.fullmatch(word)
    if numbered and int(numbered.group(1)) < usable:
        return int(numbered.group(1))
    return zlib.crc32(word.encode()) % usable


def decode(ids: Sequence[int]) -> str:
    """A text whose token ids these are."""
    return " ".join(f"t{number}" for number in ids)


def chat_ids(messages: Sequence[Mapping[str, Any]], vocab: int, *, open_answer: bool = True) -> list[int]:
    """Token ids of a conversation: five tokens around each message, three that open the answer."""
    start, end, newline = vocab - 1, vocab - 2, vocab - 3
    ids = []
    for message in messages:
        role = _role_id(message.get("role"), vocab)
        ids += [start, role, newline, *encode(content_text(message.get("content")), vocab), end, newline]
    return [*ids, start, _role_id("assistant", vocab), newline] if open_answer else ids


def _role_id(role: Any, vocab: int) -> int:
    return zlib.crc32(str(role).encode()) % 8 + vocab - SPECIAL


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def answer_tokens(prompt: Sequence[int], vocab: int, *, seed: int = 0) -> Draw:
    """A function of positions (start, end) to the output tokens that follow this prompt."""
    usable = vocab - SPECIAL
    ids = prompt if isinstance(prompt, array) else array("q", prompt)
    first = (zlib.crc32(ids) + seed * 104729) % usable

    def draw(start: int, end: int) -> list[int]:
        return [(first + position * _STRIDE) % usable for position in range(start, end)]

    return draw
