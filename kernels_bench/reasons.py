"""Reasons why a case was not measured: a sentence in English, with its code and the parameters that fill it.

The harness says them in another language by the code. A provider of another package may give plain text; that stays as
it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

_PLACE = re.compile(r"\{(\w+)(?::(\w+))?\}")
_JOINTS = {"or": " or ", "and": " and ", "parts": "; "}


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence such as `block size {size}: no multiple of {step}`; its text is the sentence with its parameters.

    `{names:list}`, `{names:or}` and `{names:parts}` join a list, `{word:quote}` puts a word in quotes. Parameters are
    numbers, texts, lists of these, and other reasons.
    """

    code: str
    sentence: str
    parameters: Mapping[str, Any]

    def __str__(self) -> str:
        return _PLACE.sub(lambda place: _shown(self.parameters[place[1]], place[2] or ""), self.sentence)

    def as_dict(self) -> dict[str, Any]:
        """As JSON keeps it: `{"code": ..., "parameters": {...}}`."""
        return {"code": self.code, "parameters": {name: _as_json(value) for name, value in self.parameters.items()}}


Why: TypeAlias = str | Reason
"""A reason, or the plain text of a provider that has no codes."""


def reason(code: str, sentence: str, /, **parameters: Any) -> Reason:
    """The reason of a code of the harness' catalogue `bench`, whose English sentence is the same."""
    return Reason(code, sentence, parameters)


def message_of(why: Why | None) -> dict[str, Any] | None:
    """The code and parameters of a reason; None of plain text."""
    return why.as_dict() if isinstance(why, Reason) else None


def _as_json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return value.as_dict() if isinstance(value, Reason) else value


def _shown(value: Any, spec: str) -> str:
    """A value as the catalogues of the harness write it."""
    if isinstance(value, list | tuple):
        return _JOINTS.get(spec, ", ").join(_shown(item, "") for item in value)
    if spec == "quote":
        return f"'{value}'"
    return f"{value:g}" if isinstance(value, float) else str(value)
