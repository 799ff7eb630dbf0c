"""A switch of the engine is what was meant, from the file on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.messages import plain
from harness.scenario.engine import Engine
from harness.scenario.flags import SWITCHES, is_switch, switch_of, switched
from harness.scenario.loader import LoadedScenario


@pytest.mark.parametrize(
    ("value", "meant"),
    [(0, False), ("off", False), ("false", False), ("No", False), (1, True), ("on", True), (True, True),
     ("maybe", None), (None, None), (0.5, None), ("", None), ([0], None)],
)  # fmt: skip
def test_a_switch_reads_as_it_is_meant(value, meant):
    """On, off, yes, no, 1, 0, true and false in any case; whatever else is neither."""
    assert switch_of(value) is meant


def test_an_engine_has_its_switches_as_true_or_false():
    """Any spelling of the name; values of other flags stay as they are, and what is neither stays to be told."""
    given_args = {"enforce-eager": 0, "no_enable_prefix_caching": "yes", "seed": 0, "--enable-lora": "maybe"}

    assert Engine(args=given_args).args == {
        "enforce_eager": False, "no_enable_prefix_caching": True, "seed": 0, "enable_lora": "maybe",
    }  # fmt: skip
    assert is_switch("no_enforce_eager")
    assert not is_switch("notation")


@given(st.dictionaries(st.sampled_from([*sorted(SWITCHES)[:5], "seed", "block_size"]), st.booleans() | st.integers()))
def test_what_is_right_already_is_not_changed(args):
    """Putting switches right twice is putting them right once, and other flags are never touched."""
    once = switched(args)

    assert switched(once) == once
    assert all(once[name] == args[name] for name in args if name not in SWITCHES)


def test_a_fault_that_the_engine_found_names_its_line(tmp_path):
    """By the flag's one name; lines about anything else stay as they are."""
    loaded = LoadedScenario(None, "", "", tmp_path, (), {("engine", "args", "seed"): "a.yaml:7"})

    assert str(loaded.located(plain("engine.args.seed: no"))) == "a.yaml:7: engine.args.seed: no"
    assert str(loaded.located(plain("engine.args.other: no"))) == "engine.args.other: no"
    assert str(loaded.located(plain("engine.model: no"))) == "engine.model: no"
