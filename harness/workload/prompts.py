"""Sessions, prompts and replies: the values that pass between workload and load."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.results.request_table import MISSING

USER = "user"
ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session: tokens asked for, and the pause in ns before it.

    `input_tokens` is the whole prompt as the server counts it, history included, or MISSING
    where only the server knows.
    """

    input_tokens: int
    output_tokens: int
    think_ns: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """One user's requests, in order; most have one."""

    index: int
    turns: tuple[Turn, ...]


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


Prompt = TokenPrompt | TextPrompt | ChatPrompt


@dataclass(frozen=True, slots=True)
class Reply:
    """What an earlier turn of a session was answered; token ids where the server gave them."""

    token_ids: tuple[int, ...] | None
    text: str
