"""Forms that ship: schemas and tools by which answers are judged as a full validator judges them."""

import json
import re

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.results.request_table import MISSING
from harness.scenario import request_kinds
from harness.scenario.request_kinds import CHAT, RESPONSES, Structured, Tools
from harness.workload.classes import FREE, STRUCTURED, TOOLS
from harness.workload.forms import (
    GRAMMAR,
    SCHEMAS,
    TOOL_PARAMETERS,
    FormCheck,
    conforms,
    fields_of_structured,
    fields_of_tools,
)

EVERY = {**SCHEMAS, **{name: parameters for name, (_, parameters) in TOOL_PARAMETERS.items()}}
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([1.0, 1.5]), st.sampled_from(["Beijing", "low", "x"])
)


def instances(schema):
    """Values that keep a schema, or nearly."""
    kind = schema["type"]
    if kind == "object":
        names = schema["properties"]
        whole = st.fixed_dictionaries({name: instances(inner) for name, inner in names.items()})
        return st.one_of(whole, whole.flatmap(lambda value: st.sampled_from([*_spoiled(value)])))
    if kind == "array":
        return st.one_of(st.lists(instances(schema["items"]), max_size=6), PLAIN)
    plain = {"string": st.sampled_from(schema.get("enum", ["a"])), "integer": st.integers(-9, 9)}
    return st.one_of(plain.get(kind, PLAIN), PLAIN)


def _spoiled(value):
    yield value
    yield {**value, "more": 1}
    yield {name: value[name] for name in list(value)[1:]}


def test_everything_that_a_scenario_may_name_ships():
    """Names of schemas and tools in scenarios are those of the forms, and every schema is a schema."""
    assert tuple(SCHEMAS) == request_kinds.SCHEMAS
    assert tuple(TOOL_PARAMETERS) == request_kinds.TOOLS
    for schema in EVERY.values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_answers_are_judged_as_a_full_validator_judges(name, data):
    """The few keywords that the schemas use mean what JSON Schema says."""
    value = data.draw(instances(EVERY[name]))

    assert conforms(value, EVERY[name]) == jsonschema.Draft202012Validator(EVERY[name]).is_valid(value)


@pytest.mark.parametrize(
    ("structured", "good", "bad"),
    [
        (Structured(kind="json_schema"), '{"name": "Li", "age": 3, "city": "Beijing"}', '{"name": "Li"'),
        (Structured(kind="choice"), "neutral\n", "Neutral"),
        (Structured(kind="regex"), "2026-11-29", "2026-11-29."),
        (Structured(kind="grammar"), "SELECT id FROM orders WHERE price > 100", "SELECT * FROM orders"),
    ],
)
def test_an_answer_keeps_its_form_or_not(structured, good, bad):
    """1 and 0; an answer without a form is held to none."""
    check = FormCheck(structured)

    assert [check.holds(STRUCTURED, text, ()) for text in (good, bad)] == [1, 0]
    assert check.holds(FREE, bad, ()) == MISSING


def test_a_pattern_that_is_none_is_refused():
    """No answer could be held against it."""
    with pytest.raises(ValidationError, match="expected a regular expression"):
        Structured(kind="regex", pattern="([")


def test_a_call_is_judged_by_its_tool():
    """It has to be one that was offered, with arguments as its schema has them; where it may be left out, it may."""
    good, other = ("get_weather", '{"city": "Beijing", "days": 2}'), ("create_ticket", "{}")
    required, auto = (FormCheck(tools=Tools(names=("get_weather",), choice=choice)) for choice in ("required", "auto"))

    assert required.holds(TOOLS, "", (good,)) == 1
    assert [required.holds(TOOLS, "text", calls) for calls in ((), (other,), (("get_weather", "{}"),))] == [0, 0, 0]
    assert auto.holds(TOOLS, "text", ()) == MISSING
    assert auto.holds(TOOLS, "", (good, other)) == 0


def test_requests_carry_forms_as_each_api_has_them():
    """VLLM's own field, or OpenAI's of the endpoint; tools are flat in the Responses API."""
    own = Structured(kind="json_schema", name="order")
    openai = Structured(kind="json_schema", name="order", field="response_format")
    tools = Tools(names=("get_weather",))

    assert fields_of_structured(own, CHAT) == {"structured_outputs": {"json": SCHEMAS["order"]}}
    assert fields_of_structured(openai, CHAT)["response_format"]["json_schema"]["schema"] == SCHEMAS["order"]
    assert fields_of_structured(openai, RESPONSES)["text"]["format"]["schema"] == SCHEMAS["order"]
    assert fields_of_structured(Structured(kind="grammar"), CHAT) == {"structured_outputs": {"grammar": GRAMMAR}}
    chat, responses = (fields_of_tools(tools, endpoint)["tools"][0] for endpoint in (CHAT, RESPONSES))
    assert chat["function"]["name"] == responses["name"] == "get_weather"
    assert json.dumps(chat)
    assert re.match(r"root ::= ", GRAMMAR)
