"""The simulator as an engine: what requests call its model."""

from harness.engines.simulator import simulate_here
from harness.scenario.engine import Engine


def test_a_model_with_names_of_its_own_is_asked_for_by_the_first(tmp_path):
    """`model` says its shape, and requests call it as `served_model_name` says, as with vLLM."""
    engine = Engine(kind="simulator", model="Qwen/Qwen3-8B", args={"served_model_name": ["a", "b"]})

    assert simulate_here(engine, tmp_path / "engine.log", lambda: 0)[0].model == "a"
