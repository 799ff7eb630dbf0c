"""The JSON Schema of scenario and study files, for editors and other tools."""

import json
from typing import Any

from harness.scenario.models import Scenario
from harness.scenario.study import Study

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
    return {
        key: {name: _plain(item) for name, item in value.items()} if key in ("properties", "$defs") else _plain(value)
        for key, value in node.items()
        if key != "title" and (key, value) != ("default", None)
    }
