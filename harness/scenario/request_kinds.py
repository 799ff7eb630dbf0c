"""What sets requests apart: the API they go to, the model or adapter they name, their priority, the form of answers."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from harness.errors import suggestion
from harness.messages import message
from harness.scenario.base import FileModel, Many, NonEmptyText, refused

COMPLETIONS, CHAT, RESPONSES = "completions", "chat", "responses"
EMBEDDINGS, RERANK, SCORE = "embeddings", "rerank", "score"
POOLED = (EMBEDDINGS, RERANK, SCORE)
"""Endpoints whose answers have no tokens: one forward pass over the prompt, and a vector or a score."""
PAIRED = (RERANK, SCORE)
"""Endpoints that hold one query against documents."""
MESSAGES = (CHAT, RESPONSES)
"""Endpoints whose prompts are messages."""

SCHEMAS = ("person", "order", "incident")
"""Names of the JSON schemas that ship (harness/workload/forms.py)."""
TOOLS = ("get_weather", "search_flights", "create_ticket")
"""Names of the tools that ship."""
LOWEST_PRIORITY = 2**31 - 1

Weight = Annotated[float, Field(ge=0, le=1e9)]
Share = Annotated[float, Field(gt=0, le=1)]


def hold_weights(values: tuple[Any, ...], weights: tuple[float, ...] | None) -> None:
    """Refuse weights that are not one a value, or of which none is above 0."""
    if weights is not None and (len(weights) != len(values) or sum(weights) <= 0):
        raise refused(message("scenario.expected_weights", values=len(values)))


def _hold_different(values: tuple[Any, ...]) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise refused(message("scenario.named_twice", name=str(twice)))


def is_of_tokens(metric: str, endpoint: str) -> bool:
    """Whether a metric of a study is of tokens that answers of this endpoint do not have."""
    return endpoint in POOLED and metric.startswith(("throughput", "total_throughput", "cost", "ttft_", "tpot_"))


class Adapters(FileModel):
    """LoRA adapters that requests name in place of the model; the server has loaded them (`--lora-modules`)."""

    names: Many[NonEmptyText]
    """The adapters, as the server lists them."""
    weights: Many[Weight] | None = None
    """How often each adapter is named, relative to the others; all alike where none are given."""
    base: Weight = 0.0
    """How often the model without an adapter is named, on the scale of the weights (of 1 each where none are given)."""

    @model_validator(mode="after")
    def _matching(self) -> "Adapters":
        _hold_different(self.names)
        hold_weights(self.names, self.weights)
        return self


class Models(FileModel):
    """Several models of one server; a request names one of them."""

    names: Many[NonEmptyText]
    """The models, as the server lists them."""
    weights: Many[Weight] | None = None
    """How often each model is named, relative to the others; all alike where none are given."""

    @model_validator(mode="after")
    def _matching(self) -> "Models":
        _hold_different(self.names)
        hold_weights(self.names, self.weights)
        return self


class Priority(FileModel):
    """Classes of requests by vLLM's `priority`, for an engine with `--scheduling-policy priority`."""

    values: Many[Annotated[int, Field(ge=-LOWEST_PRIORITY, le=LOWEST_PRIORITY)]]
    """The priorities; the lowest number is served first."""
    weights: Many[Weight] | None = None
    """How often each priority is given, relative to the others; all alike where none are given."""

    @model_validator(mode="after")
    def _matching(self) -> "Priority":
        _hold_different(self.values)
        hold_weights(self.values, self.weights)
        return self


def _shipped(known: tuple[str, ...]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in known:
            raise refused(message("scenario.not_a_form", hint=suggestion(name, list(known))))
        return name

    return AfterValidator(check)


def _compiles(pattern: str) -> str:
    """A pattern that answers can be held against."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise refused(message("scenario.not_a_pattern", reason=str(error))) from None
    return pattern


class Structured(FileModel):
    """Answers that the engine holds to a form; they end where the form does, output_tokens at the latest."""

    kind: Literal["json_schema", "choice", "regex", "grammar"]
    """What the form is: a JSON schema or a grammar that ships, one of some texts, or a regular expression."""
    name: Annotated[NonEmptyText, _shipped(SCHEMAS)] = "person"
    """The JSON schema, for kind json_schema."""
    choice: Many[NonEmptyText] = ("positive", "negative", "neutral")
    """The texts, for kind choice."""
    pattern: Annotated[NonEmptyText, AfterValidator(_compiles)] = r"\d{4}-\d{2}-\d{2}"
    """The regular expression, for kind regex."""
    share: Share = 1.0
    """The share of requests that ask for the form; the others are as without it."""
    field: Literal["structured_outputs", "response_format"] = "structured_outputs"
    """The field of a request that carries it: vLLM's own, or OpenAI's response_format for a JSON schema."""

    @model_validator(mode="after")
    def _of_its_kind(self) -> "Structured":
        for key, kind in (("name", "json_schema"), ("choice", "choice"), ("pattern", "regex")):
            if self.kind != kind and getattr(self, key) != type(self).model_fields[key].default:
                raise refused(message("scenario.belongs_to_kind", key=key, kind=kind, given=self.kind))
        if self.field == "response_format" and self.kind != "json_schema":
            raise refused(message("scenario.response_format_schema", kind=self.kind))
        return self


class Tools(FileModel):
    """Tools that requests offer to the model, on the chat endpoint."""

    names: Many[Annotated[str, _shipped(TOOLS)]] = TOOLS
    """The tools, of those that ship; all by default."""
    choice: Literal["required", "auto"] = "required"
    """Whether the model has to call one of them (required), or may (auto)."""
    share: Share = 1.0
    """The share of requests that offer tools; the others are as without them."""
