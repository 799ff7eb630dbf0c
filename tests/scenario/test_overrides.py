"""`--set` changes what it says, and what it cannot change is an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.scenario.error_messages import Fault, dotted
from harness.scenario.yaml_document import Override, apply_override, parse_override

STEP = st.from_regex(r"[a-z][a-z_]{0,7}", fullmatch=True) | st.integers(0, 99)


@given(st.lists(STEP, min_size=1, max_size=5).filter(lambda path: isinstance(path[0], str)), st.integers())
def test_a_printed_path_can_be_typed_again(path, value):
    """The path of a fault, and the same with dots, mean what was printed."""
    printed = parse_override(f"{dotted(tuple(path))}={value}")
    typed = parse_override(f"{'.'.join(map(str, path))}={value}")

    assert isinstance(printed, Override)
    assert isinstance(typed, Override)
    assert printed.path == typed.path == tuple(path)
    assert printed.value == value


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("slo.ttft_p99.9=5s", ("slo", "ttft_p99.9"), "5s"),
        ('slo."ttft_p99.9"=5s', ("slo", "ttft_p99.9"), "5s"),
        ("workload.input_tokens={uniform: [1, 2]}", ("workload", "input_tokens"), {"uniform": [1, 2]}),
        ("warmup=", ("warmup",), None),
        ("question=a=b", ("question",), "a=b"),
        ('engine.env."1"=x', ("engine", "env", "1"), "x"),
    ],
)
def test_keys_and_values_are_read_as_typed(text, path, value):
    """Percentiles keep their dot, quotes keep a number a name, values are YAML."""
    override = parse_override(text)

    assert override == Override(path, value, f"--set {text}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed", "--set seed: expected KEY=VALUE, such as load.0.poisson.rate=3"),
        ("=3", "--set =3: expected KEY=VALUE, such as load.0.poisson.rate=3"),
        ("a..b=3", "--set a..b=3: expected KEY=VALUE, such as load.0.poisson.rate=3"),
        ("seed=[1", "--set seed=[1: a list in [ ] is not closed; expected , or ]"),
        (
            "stream=on",
            "--set stream=on: 'on' is true in old YAML and a word in new; expected true, or quotes around it",
        ),
    ],
)
def test_what_is_no_override_is_told(text, line):
    """An override without a key, or with a value that is no YAML, is a fault."""
    fault = parse_override(text)

    assert isinstance(fault, Fault)
    assert str(fault.reason) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("load.1.poisson.rate=3", "--set load.1.poisson.rate=3: load has 1 of them; expected a position up to 0"),
        ("load.poisson.rate=3", "--set load.poisson.rate=3: load is a list; expected a position, such as load.0"),
        ("name.first=x", "--set name.first=x: name is 'chat'; expected nothing below it"),
        ("engine.0=x", "--set engine.0=x: engine has no positions; expected one of args"),
    ],
)
def test_a_path_that_leads_nowhere_is_told(text, line):
    """Positions beyond a list, names in a list and steps below a word are faults."""
    tree = {"name": "chat", "load": [{"poisson": {"rate": 1}}], "engine": {"args": {}}}

    fault = apply_override(tree, parse_override(text))

    assert fault is not None
    assert str(fault.reason) == line


def test_mappings_are_made_on_the_way():
    """An override may set what the file leaves out."""
    tree = {"engine": None}

    fault = apply_override(tree, parse_override("engine.args.block_size=64"))

    assert fault is None
    assert tree == {"engine": {"args": {"block_size": 64}}}


def test_a_flag_is_replaced_in_either_spelling():
    """max_model_len and --max-model-len are one flag."""
    tree = {"engine": {"args": {"max-model-len": 1}}}

    apply_override(tree, parse_override("engine.args.max_model_len=2"))

    assert tree == {"engine": {"args": {"max-model-len": 2}}}


def test_secrets_are_not_repeated():
    """A fault in an override that holds a secret names the key only."""
    overrides = [parse_override(text) for text in ("engine.args.api_key=sk-1", "engine.url=http://me:pw@host:1")]

    assert [override.place for override in overrides] == ["--set engine.args.api_key=…", "--set engine.url=…"]
