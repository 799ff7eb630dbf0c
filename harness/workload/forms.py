"""Forms of answers that ship: JSON schemas, a grammar, tools; how requests ask for them, and whether answers keep them.

The schemas use few keywords of JSON Schema, those that `conforms` knows; the tests hold it to a full validator.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.results.request_table import MISSING
from harness.scenario.request_kinds import CHAT, RESPONSES, Structured, Tools
from harness.workload.classes import STRUCTURED, TOOLS


def _object(**properties: Any) -> dict[str, Any]:
    """A JSON schema of an object that has exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT, _WHOLE, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
_PLACE = {"type": "string", "enum": ["Beijing", "Shanghai", "Shenzhen", "Hangzhou"]}

SCHEMAS: Mapping[str, dict[str, Any]] = {
    "person": _object(name=_TEXT, age=_WHOLE, city=_PLACE),
    "order": _object(
        number=_WHOLE,
        customer=_object(name=_TEXT, city=_PLACE),
        items={
            "type": "array",
            "minItems": 1,
            "maxItems": 4,
            "items": _object(article=_TEXT, count=_WHOLE, price=_NUMBER),
        },
        paid={"type": "boolean"},
    ),
    "incident": _object(
        title=_TEXT,
        severity={"type": "string", "enum": ["low", "medium", "high", "critical"]},
        services={"type": "array", "minItems": 1, "maxItems": 5, "items": _TEXT},
        minutes=_NUMBER,
        resolved={"type": "boolean"},
    ),
}
"""The JSON schemas, by name."""

GRAMMAR = """
root ::= "SELECT " column " FROM " table " WHERE " column " > " number
column ::= "id" | "age" | "price"
table ::= "users" | "orders" | "articles"
number ::= [0-9] [0-9] [0-9]
""".strip()
"""The grammar: a small part of SQL, in the EBNF that vLLM takes."""
_OF_GRAMMAR = re.compile(r"SELECT (id|age|price) FROM (users|orders|articles) WHERE (id|age|price) > \d{3}")

TOOL_PARAMETERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "get_weather": ("The weather of a city.", _object(city=_PLACE, days=_WHOLE)),
    "search_flights": ("Flights between two cities.", _object(origin=_PLACE, destination=_PLACE, passengers=_WHOLE)),
    "create_ticket": (
        "A ticket for the support team.",
        _object(title=_TEXT, urgency={"type": "string", "enum": ["low", "high"]}),
    ),
}
"""The tools: by name a description, and the JSON schema of the parameters."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def conforms(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a JSON value is as one of the shipped schemas says."""
    kind = schema["type"]
    if isinstance(value, bool) != (kind == "boolean"):
        return False
    if kind == "integer" and isinstance(value, float):
        value = int(value) if value.is_integer() else value
    fits: bool = isinstance(value, _TYPES[kind])  # not read as a narrowing: the value may be any of these
    if not fits or ("enum" in schema and value not in schema["enum"]):
        return False
    if kind == "array":
        within = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return within and all(conforms(item, schema["items"]) for item in value)
    if kind != "object":
        return True
    properties = schema["properties"]
    return value.keys() == properties.keys() and all(conforms(value[name], properties[name]) for name in properties)


ToolCall = tuple[str, str]
"""Name and arguments (JSON) of a call."""


@dataclass(frozen=True, slots=True)
class FormCheck:
    """Whether answers keep the form that their requests asked for; pickled to the processes that decode answers."""

    structured: Structured | None = None
    tools: Tools | None = None

    def holds(self, form: str, text: str, calls: Sequence[ToolCall]) -> int:
        """1 where a complete answer of this form keeps it, 0 where it does not, MISSING where it has none to keep.

        A model that may call a tool, and did not, is not held to anything.
        """
        if form == STRUCTURED and self.structured is not None:
            return int(_is_structured(self.structured, text))
        if form == TOOLS and self.tools is not None:
            if not calls and self.tools.choice == "auto":
                return MISSING
            return int(bool(calls) and all(_is_call(self.tools, *call) for call in calls))
        return MISSING


def _is_structured(structured: Structured, text: str) -> bool:
    if structured.kind == "json_schema":
        return _is_json_of(text, SCHEMAS[structured.name])
    if structured.kind == "choice":
        return text.strip() in structured.choice
    pattern = re.compile(structured.pattern) if structured.kind == "regex" else _OF_GRAMMAR
    return pattern.fullmatch(text.strip()) is not None


def _is_json_of(text: str, schema: Mapping[str, Any]) -> bool:
    try:
        return conforms(json.loads(text), schema)
    except (ValueError, RecursionError):
        return False


def _is_call(tools: Tools, name: str, arguments: str) -> bool:
    return name in tools.names and _is_json_of(arguments, TOOL_PARAMETERS[name][1])


def fields_of_structured(structured: Structured, endpoint: str) -> dict[str, Any]:
    """The keys of a request's body that hold its answer to the form."""
    name, schema = structured.name, SCHEMAS[structured.name]
    if structured.field == "response_format":
        if endpoint == RESPONSES:
            return {"text": {"format": {"type": "json_schema", "name": name, "schema": schema, "strict": True}}}
        held = {"name": name, "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": held}}
    values: Mapping[str, tuple[str, Any]] = {
        "json_schema": ("json", schema),
        "choice": ("choice", list(structured.choice)),
        "regex": ("regex", structured.pattern),
        "grammar": ("grammar", GRAMMAR),
    }
    key, value = values[structured.kind]
    return {"structured_outputs": {key: value}}


def fields_of_tools(tools: Tools, endpoint: str) -> dict[str, Any]:
    """The keys of a request's body that offer the tools."""
    functions = [
        {"name": name, "description": TOOL_PARAMETERS[name][0], "parameters": TOOL_PARAMETERS[name][1]}
        for name in tools.names
    ]
    flat = endpoint != CHAT  # as the Responses API has them
    offered = [{"type": "function", **each} if flat else {"type": "function", "function": each} for each in functions]
    return {"tools": offered, "tool_choice": tools.choice}
