"""The JSON Schema of scenario and study files, for editors and other tools."""

import json
from typing import Any

from harness.plugins import ARRIVALS, ENGINES, KERNEL_PROVIDERS, WORKLOADS, installed, load_plugin
from harness.scenario.engine import ENGINE_KINDS
from harness.scenario.kernels import PROVIDERS
from harness.scenario.models import Scenario
from harness.scenario.study import Study
from harness.scenario.workload import WORKLOAD_KINDS

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def scenario_schema() -> dict[str, Any]:
    """The JSON Schema of a scenario file."""
    schema = _plain(Scenario.model_json_schema(mode="validation"))
    return {"$schema": DRAFT, "title": "npu-harness scenario", **schema}


def file_schema() -> dict[str, Any]:
    """The JSON Schema of a file that is a study where it names a scenario, and else a scenario."""
    parts = {model.__name__: _plain(model.model_json_schema(mode="validation")) for model in (Scenario, Study)}
    shared = {name: part for whole in parts.values() for name, part in whole.pop("$defs").items()}
    return {
        "$schema": DRAFT,
        "title": "npu-harness scenario or study",
        "if": {"required": ["scenario"]},
        "then": {"$ref": "#/$defs/Study"},
        "else": {"$ref": "#/$defs/Scenario"},
        "$defs": shared | parts,
    }


def schema_text() -> str:
    """The schema as scenarios/schema.json holds it."""
    return json.dumps(file_schema(), indent=2, ensure_ascii=False) + "\n"


def _plain(node: Any) -> Any:
    """Without titles that only repeat a key, and without defaults of nothing."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = _with_plugins(node)
    return {
        key: {name: _plain(item) for name, item in value.items()} if key in ("properties", "$defs") else _plain(value)
        for key, value in node.items()
        if key != "title" and (key, value) != ("default", None)
    }


def _with_plugins(node: dict[str, Any]) -> dict[str, Any]:
    """A choice of built-in kinds, with the installed ones."""
    for group, built_in in ((ENGINES, ENGINE_KINDS), (KERNEL_PROVIDERS, PROVIDERS)):
        if node.get("enum") == list(built_in) and installed(group):
            return {**node, "enum": [*built_in, *installed(group)]}
    arms = node.get("oneOf")
    mapping = (node.get("discriminator") or {}).get("mapping") or {}
    if arms and set(WORKLOAD_KINDS) <= mapping.keys() and installed(WORKLOADS):
        return {"oneOf": [*arms, *(_options(WORKLOADS, name) for name in installed(WORKLOADS))]}
    if arms and {"$ref": "#/$defs/ClosedItem"} in arms and installed(ARRIVALS):
        return {**node, "oneOf": [*arms, *(_item(name) for name in installed(ARRIVALS))]}
    return node


def _item(name: str) -> dict[str, Any]:
    return {
        "type": "object", "properties": {name: _options(ARRIVALS, name)},
        "required": [name], "additionalProperties": False,
    }  # fmt: skip


def _options(group: str, name: str) -> dict[str, Any]:
    """The schema of an installed kind's keys, without references, which would lead into another document."""
    schema: dict[str, Any] = load_plugin(group, name).options.model_json_schema(mode="validation")
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, list):
            return [inline(item) for item in value]
        if not isinstance(value, dict):
            return value
        if str(value.get("$ref", "")).startswith("#/$defs/"):
            return inline(definitions[value["$ref"].rpartition("/")[2]])
        return {key: inline(item) for key, item in value.items()}

    inlined: dict[str, Any] = inline(schema)
    return inlined
