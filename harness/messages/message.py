"""A message: its code, and its parameters as numbers, names and other messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Union

Parameter: TypeAlias = Union[bool, int, float, str, "Message", Sequence["Parameter"], None]

PLAIN = "text.plain"  # a text that came from elsewhere: an engine's own words, or a result of format 1


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be said: `code` names a sentence of the catalogues, `parameters` fill it."""

    code: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def __str__(self) -> str:
        """The English sentence."""
        from harness.messages.rendering import render  # noqa: PLC0415 - rendering reads messages

        return render(self)

    def as_dict(self) -> dict[str, Any]:
        """As JSON keeps it: `{"code": ..., "parameters": {...}}`, parameters that are messages likewise."""
        return {"code": self.code, "parameters": {name: _as_json(value) for name, value in self.parameters.items()}}


def message(code: str, /, **parameters: Parameter) -> Message:
    """A message of the catalogue; every parameter stands in its sentence."""
    return Message(code, parameters)


def sentences(*parts: Message) -> Message:
    """Several sentences, one after the other, as one message."""
    return message("text.sentences", sentences=list(parts))


def plain(text: str) -> Message:
    """A text of somebody else as a message: the same in every language."""
    return Message(PLAIN, {"text": text})


def message_from(kept: Mapping[str, Any]) -> Message:
    """A message from what `as_dict` made of it."""
    parameters = kept.get("parameters") or {}
    return Message(str(kept["code"]), {str(name): _from_json(value) for name, value in parameters.items()})


def _as_json(value: Parameter) -> Any:
    if isinstance(value, Message):
        return value.as_dict()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_json(item) for item in value]
    return value


def _from_json(value: Any) -> Parameter:
    if isinstance(value, Mapping) and "code" in value:
        return message_from(value)
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
