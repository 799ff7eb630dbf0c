"""What all mappings of a scenario file share: frozen, strict, and helpful about mistyped keys."""

import re
from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from harness.messages import Message, message
from harness.plugins import installed
from harness.units import parse_duration

REFUSED = "refused"  # the type of the errors that `refused` makes
LONGEST_S = 30 * 86400.0
T = TypeVar("T")


class FileModel(BaseModel):
    """A mapping of a scenario file: frozen, no unknown keys, no value taken for one of another type.

    Validated with a dict as context, it notes there which class read which mapping (by identity),
    so that a fault can name the nearest key without guessing the class again.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _note_reader(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, dict) and isinstance(info.context, dict):
            info.context[id(data)] = cls
        return data

    @classmethod
    def keys(cls) -> dict[str, str]:
        """The keys of this mapping as a file spells them, with what each is."""
        return {field.alias or name: field.description or "" for name, field in cls.model_fields.items()}


def refused(reason: Message) -> PydanticCustomError:
    """The error of a validator: what pydantic reports keeps the message in its context."""
    return PydanticCustomError(REFUSED, "{text}", {"text": str(reason), "reason": reason})


def with_plugins(
    group: str, built_in: Collection[str], kind_of: Callable[[Any], str], model_of: Callable[[str], type[BaseModel]]
) -> WrapValidator:
    """Lets a union of built-in kinds take installed ones as well, each checked by the class that `model_of` gives."""

    def check(data: Any, check_built_in: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        kind = "" if isinstance(data, BaseModel) else kind_of(data)
        if not kind or kind in built_in or kind not in installed(group):
            return data if isinstance(data, BaseModel) and _is_plugin(data, built_in) else check_built_in(data)
        return model_of(kind).model_validate(data, context=info.context)

    return WrapValidator(check)


def _is_plugin(data: BaseModel, built_in: Collection[str]) -> bool:
    """Whether a value was checked already by the class of an installed kind."""
    kind = getattr(data, "kind", None) or next(iter(type(data).model_fields), "")
    return kind not in built_in


def one_key(data: Any) -> str:
    """The single key of a tagged mapping such as `{poisson: {...}}`; "" where it is not of that form."""
    return str(next(iter(data))) if isinstance(data, dict) and len(data) == 1 else ""


def matching(pattern: str, expected: Message) -> Callable[[str], str]:
    """A check that the whole text is of this pattern, else refused with the message `expected`."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise refused(expected)
        return text

    return check


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refused(message("scenario.expected_duration"))
    return duration_of(value)


def duration_of(value: float | str) -> float:
    """Seconds of a number or of a text such as `60s`; refused where it is none."""
    try:
        return parse_duration(value)
    except ValueError:
        raise refused(message("scenario.not_a_duration", text=value)) from None


def _one_or_many(data: Any) -> str:
    return "many" if isinstance(data, list | tuple) else "one"


Many = Annotated[tuple[T, ...], Field(min_length=1, strict=False)]
"""A list of at least one."""

OneOrMany = Annotated[
    Annotated[T, Tag("one")] | Annotated[tuple[T, ...], Field(min_length=1, strict=False), Tag("many")],
    Discriminator(_one_or_many),
]
"""A value, or a list of values of which each makes a stage."""

DURATION_SCHEMA = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_S},
        {
            "type": "string",
            "pattern": r"^\s*[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?\s*(ns|us|µs|ms|s|m|min|h)?\s*$",
        },
    ]
}
Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0, le=LONGEST_S),
    WithJsonSchema(DURATION_SCHEMA),
]
"""Seconds, written with a unit: `60s`, `80ms`, `5m`; a bare number is seconds."""

Name = Annotated[
    str,
    Field(max_length=80),
    AfterValidator(
        matching(
            r"[a-z0-9]+(-[a-z0-9]+)*",
            message("scenario.expected_name"),
        )
    ),
    WithJsonSchema({"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "maxLength": 80}),
]
"""A name that is safe in a file name and in a table."""

NonEmptyText = Annotated[str, Field(min_length=1)]
"""Text that is not empty."""


def with_keys(pattern: str, values: dict[str, Any]) -> WithJsonSchema:
    """A mapping in the JSON Schema: keys of this pattern, values of this schema."""
    return WithJsonSchema(
        {"type": "object", "patternProperties": {f"^{pattern}$": values}, "additionalProperties": False}
    )


def many(value: Any) -> tuple[Any, ...]:
    """The values of a key, whether written as one or as a list."""
    return value if isinstance(value, tuple) else (value,)


def ends_once(requests: object, duration: object) -> None:
    """Refuse load that ends by neither a number of requests nor a time, or by both."""
    if (requests is None) == (duration is None):
        raise refused(message("scenario.requests_or_duration"))
