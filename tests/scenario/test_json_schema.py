"""The JSON Schema, the shipped files and the loader agree."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from harness.scenario.json_schema import file_schema, scenario_schema, schema_text
from harness.scenario.loader import check_file
from harness.scenario.metrics import LATENCIES
from harness.scenario.models import Scenario
from harness.scenario.yaml_document import read_value

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = ROOT / "scenarios"
SHIPPED = sorted(SCENARIOS.glob("*.yaml"))
VALIDATOR = Draft202012Validator(scenario_schema())
FILES = Draft202012Validator(file_schema())

WHOLE = st.integers(1, 1000)
RATE = st.integers(1, 100) | st.floats(0.01, 100)
DURATION = (
    st.integers(1, 100) | st.floats(0.1, 100) | st.sampled_from(["60s", "80ms", "5m", "1.5h", ".5s", "2e1s", "10 s"])
)
FREE = st.recursive(
    st.booleans() | st.integers(-100, 100) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


def many(value):
    """A value, or a list that makes a stage of each."""
    return value | st.lists(value, min_size=1, max_size=3)


def keys(required, **optional):
    """A mapping with some of the optional keys."""
    return st.fixed_dictionaries(required, optional=optional)


def ended(**required):
    """A stage's keys, with requests or duration and perhaps a limit."""
    limit = {} if "concurrency" in required else {"max_concurrency": many(WHOLE)}
    return keys({**required, "requests": many(WHOLE.map(lambda n: n + 1000))}, **limit) | keys(
        {**required, "duration": many(DURATION)}, **limit
    )


COUNT = (
    WHOLE
    | st.tuples(WHOLE, WHOLE).map(lambda pair: {"uniform": sorted(pair)})
    | keys({"mean": RATE, "sd": RATE}, min=st.just(1), max=WHOLE).map(lambda body: {"normal": body})
    | keys({"median": RATE, "sigma": st.floats(0, 3)}, max=WHOLE).map(lambda body: {"lognormal": body})
    | keys({"values": st.lists(WHOLE, min_size=2, max_size=2)}, weights=st.just([1, 0.5])).map(
        lambda body: {"choice": body}
    )
)
STAGE = st.one_of(
    ended(concurrency=many(WHOLE)).map(lambda body: {"closed": body}),
    ended(rate=many(RATE)).map(lambda body: {"constant": body}),
    ended(rate=many(RATE)).map(lambda body: {"poisson": body}),
    ended(rate=many(RATE), burstiness=many(RATE)).map(lambda body: {"gamma": body}),
    keys({"from": RATE, "to": RATE, "duration": DURATION}).map(lambda body: {"ramp": body}),
)
WORK = keys(
    {"kind": st.just("synthetic"), "input_tokens": COUNT, "output_tokens": COUNT}, vocabulary=st.just([300, 900])
) | keys(
    {"kind": st.just("conversation"), "turns": COUNT, "input_tokens": COUNT, "output_tokens": COUNT},
    prefix=keys({"tokens": WHOLE}, groups=WHOLE),
    think_time=DURATION | DURATION.map(lambda mean: {"exponential": mean}),
)
ENGINE = keys(
    {"kind": st.sampled_from(["auto", "simulator", "vllm", "vllm-ascend"]), "model": st.just("a/b")},
    args=st.dictionaries(st.from_regex(r"(--)?[a-z][a-z0-9]{0,5}", fullmatch=True), FREE, max_size=2).filter(
        lambda args: len({flag.removeprefix("--") for flag in args} - {"model", "host", "port", "token"}) == len(args)
    ),
    env=st.dictionaries(
        st.from_regex(r"[A-Z][A-Z_]{0,5}", fullmatch=True), st.text("ab 1", max_size=4) | WHOLE, max_size=2
    ).filter(lambda env: "TOKEN" not in env),
    devices=st.lists(st.integers(0, 15), min_size=1, max_size=4),
    port=st.integers(1, 65535),
    ready_timeout=DURATION,
)
SCENARIO = keys(
    {
        "name": st.from_regex(r"[a-z0-9]{1,9}(-[a-z0-9]{1,9})?", fullmatch=True),
        "question": st.text(min_size=1, max_size=40),
        "engine": ENGINE,
        "workload": WORK,
        "load": st.lists(STAGE, min_size=1, max_size=3),
    },
    seed=st.integers(0, 2**64 - 1),
    endpoint=st.sampled_from(["completions", "chat"]),
    extra_body=st.dictionaries(st.text("abc", min_size=1, max_size=3), FREE, max_size=2),
    warmup=keys({"requests": WHOLE}) | keys({"duration": DURATION}) | st.none(),
    repeats=st.integers(1, 100),
    timeout=DURATION,
    workers=st.integers(1, 256) | st.none(),
    slo=st.dictionaries(st.from_regex(r"(ttft|e2e|e2e_user)_(p50|p99\.9|mean|max)", fullmatch=True), DURATION),
)  # fmt: skip
ANYTHING = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text(max_size=5) | st.just([]) | st.just({})
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file to write scenarios to."""
    return tmp_path_factory.mktemp("fuzz") / "scenario.yaml"


def faults(file, tree):
    """What the loader says of a tree, written as a file."""
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return check_file(file)


def test_the_schema_is_the_one_that_ships():
    """scenarios/schema.json is what `harness schema` prints."""
    assert (SCENARIOS / "schema.json").read_text(encoding="utf-8") == schema_text()


def test_the_schema_is_a_schema():
    """It is valid itself, by the draft that it names."""
    Draft202012Validator.check_schema(json.loads(schema_text()))

    assert scenario_schema()["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


def test_every_key_is_explained_to_the_editor():
    """Each property of each part has a description, and no part takes unknown keys."""
    schema = scenario_schema()
    parts = {"Scenario": schema, **schema["$defs"]}
    bare = [
        (part, key)
        for part, body in parts.items()
        for key, value in body["properties"].items()
        if "description" not in {**value, **schema["$defs"].get(value.get("$ref", "").rpartition("/")[2], {})}
    ]

    assert bare == []
    assert [part for part, body in parts.items() if body.get("additionalProperties") is not False] == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_scenario_fits_the_schema(path):
    """Its first line tells editors where the schema is, and the schema takes it."""
    text = path.read_text(encoding="utf-8")

    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    assert [error.message for error in FILES.iter_errors(read_value(text).value)] == []


@settings(max_examples=60, deadline=None)
@given(tree=SCENARIO)
def test_a_valid_scenario_passes_both(file, tree):
    """What is made by the rules is taken by the loader and by the schema."""
    assert faults(file, tree) == []
    assert [error.message for error in VALIDATOR.iter_errors(tree)] == []


@settings(max_examples=40, deadline=None)
@given(tree=SCENARIO)
def test_a_scenario_survives_json(tree):
    """Written as JSON by its keys, as worker processes get it, a scenario is read as it was."""
    scenario = Scenario.model_validate(tree)
    written = json.dumps(scenario.model_dump(mode="json", by_alias=True, exclude_none=True))

    assert Scenario.model_validate(json.loads(written)) == scenario


def spots(tree, path=()):
    """Every path of a tree."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, value in items:
        yield from spots(value, (*path, step))


@settings(max_examples=150, deadline=None)
@given(tree=SCENARIO, data=st.data())
def test_what_the_schema_refuses_the_loader_refuses(file, tree, data):
    """A scenario spoiled at any place is never taken by the loader against the schema, nor does it break it."""
    *path, last = data.draw(st.sampled_from([path for path in spots(tree) if path]))
    spoiled = copy.deepcopy(tree)
    here = spoiled
    for step in path:
        here = here[step]
    deed = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if deed == "replace":
        here[last] = data.draw(ANYTHING)
    elif deed == "remove":
        del here[last]
    elif isinstance(here, dict):
        here[data.draw(st.sampled_from(["x", "kind", "rate", "path", "url"]))] = data.draw(ANYTHING)
    else:
        here.append(data.draw(ANYTHING))

    told = faults(file, spoiled)

    assert told or VALIDATOR.is_valid(spoiled)
    assert all(line.startswith(f"{file}:") and "\n" not in line for line in told)


def test_objectives_of_every_metric_fit_the_schema(file):
    """Each metric of the contract can be held to a limit."""
    tree = read_value((SCENARIOS / "smoke.yaml").read_text(encoding="utf-8")).value
    tree["slo"] = {f"{metric}_p99": "1s" for metric in LATENCIES}

    assert faults(file, tree) == []
    assert VALIDATOR.is_valid(tree)
