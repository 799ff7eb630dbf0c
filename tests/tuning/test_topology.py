"""Topologies: which layouts the cards hold, which can serve, and what each is as an engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ScenarioError
from harness.scenario.engine import Engine
from harness.scenario.processes import cards, processes_of
from harness.scenario.stages import Stage
from harness.scenario.study import Topology
from harness.tuning.topology import (
    Layout,
    laid_out,
    layout_named,
    layout_of,
    layouts_of,
    leased,
    possible_layouts,
    shared_stage,
)
from tests.tuning.studies import problem_in

LAYOUTS = st.builds(Layout, st.integers(1, 16), st.integers(1, 64)) | st.builds(
    lambda tensor, prefill, decode: Layout(tensor, prefill + decode, prefill),
    st.integers(1, 16), st.integers(1, 32), st.integers(1, 32),
)  # fmt: skip
ENGINE = Engine(kind="simulator", model="Qwen/Qwen2.5-7B-Instruct", args={"max_model_len": 4096})


def names(**topology):
    """The names of a topology's layouts."""
    return [layout.name for layout in layouts_of(Topology.model_validate(topology))]


@given(LAYOUTS)
def test_a_name_says_all_of_a_layout(layout):
    """It is read back as it was."""
    assert layout_named(layout.name) == layout


def test_engines_fill_the_cards_unless_their_number_is_given():
    """Each size as often as it fits; of given numbers those that fit."""
    assert names(cards=8, tensor_parallel=[1, 2, 8]) == ["TP1 DP8", "TP2 DP4", "TP8"]
    assert names(cards=8, tensor_parallel=[2, 4], data_parallel=[1, 3]) == ["TP2", "TP2 DP3", "TP4"]
    assert names(cards=4, tensor_parallel=[8]) == []


def test_a_ratio_of_prefill_to_decode_is_repeated_as_often_as_it_fits():
    """What is left over stays free; given numbers have to hold it whole."""
    ratios = ["none", "1:1", "1:3", "2:1"]
    assert names(cards=8, prefill_decode=ratios) == ["TP1 DP8", "TP1 4P4D", "TP1 2P6D", "TP1 4P2D"]
    assert names(cards=8, tensor_parallel=[4], prefill_decode=ratios) == ["TP4 DP2", "TP4 1P1D"]
    assert names(cards=8, data_parallel=[2, 6], prefill_decode=["2:1"]) == ["TP1 4P2D"]


@given(st.integers(1, 64), st.lists(st.integers(1, 16), min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 4))
def test_no_layout_takes_more_cards_than_there_are(count, sizes, prefill, decode):
    """And a split one has both roles in their ratio."""
    splits = ["none", f"{prefill}:{decode}"]
    topology = Topology.model_validate({"cards": count, "tensor_parallel": sizes, "prefill_decode": splits})
    for layout in layouts_of(topology):
        assert 0 < layout.cards <= count
        assert layout.prefill * decode == layout.decode * prefill


def test_what_cannot_serve_is_told_with_the_reason():
    """Heads that are not divided, weights that do not fit; the base configuration's own size is the default."""
    topology = Topology.model_validate({"cards": 8, "tensor_parallel": [1, 2, 4, 8], "prefill_decode": ["1:1", "none"]})
    engine = Engine(kind="simulator", model="Qwen/Qwen2.5-32B-Instruct", args={"tensor_parallel_size": 4})
    possible, refused = possible_layouts(topology, engine, "simulator")
    seven, _ = possible_layouts(topology, ENGINE, "simulator")

    assert [layout.name for layout in possible] == ["TP4 DP2", "TP2 2P2D", "TP2 DP4", "TP4 1P1D", "TP8"]
    assert {fault.layout.tensor_parallel for fault in refused} == {1}
    assert "KV cache" in str(refused[0].why) or "memory" in str(refused[0].why)
    assert seven[0].name == "TP1 DP8"
    assert 8 not in {layout.tensor_parallel for layout in seven}


@given(LAYOUTS)
def test_an_engine_in_a_layout_has_that_layout(layout):
    """Side by side it is one server with its flags, apart a deployment whose processes have the cards."""
    engine = laid_out(ENGINE, "vllm-ascend", layout, "MooncakeConnectorV1")

    assert layout_of(engine) == layout
    assert engine.args["max_model_len"] == 4096
    if layout.prefill:
        processes = [process for process in processes_of(engine, "vllm-ascend") if process.role != "proxy"]
        assert sum(cards(process.args) for process in processes) == layout.cards
        assert [process.role for process in processes].count("prefill") == layout.prefill
        assert len({device for process in processes for device in process.devices}) == layout.cards
    else:
        assert cards(engine.args) == layout.cards


def test_a_layout_takes_the_first_of_leased_devices():
    """As many as it needs; a study without topologies gives all of them to the engine."""
    pair = laid_out(ENGINE, "vllm-ascend", Layout(1, 2, 1), "MooncakeConnectorV1")

    assert leased(ENGINE, [4, 5, 6], all_of_them=True).devices == (4, 5, 6)
    assert leased(ENGINE, [4, 5, 6], all_of_them=False).devices == (4,)
    assert leased(pair, [4, 5, 6], all_of_them=False).process.devices == (4, 5)


def test_fewer_cards_get_their_share_of_the_load():
    """Of users, rates and requests, so that it takes as long; never nothing."""
    closed, ramp = Stage("closed", concurrency=10, requests=80), Stage("ramp", rate=2.0, rate_to=8.0, duration_s=60.0)

    assert shared_stage(closed, 0.75) == Stage("closed", concurrency=8, requests=60)
    assert shared_stage(closed, 0.01).concurrency == 1
    assert shared_stage(ramp, 0.5) == Stage("ramp", rate=1.0, rate_to=4.0, duration_s=60.0)


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"objective": "throughput"}, "with a topology expected an objective of a card; did you mean"),
        ({"topology": {"cards": 4, "prefill_decode": ["1-3"]}}, "such as 1:3, got"),
        ({"topology": {"cards": 2, "tensor_parallel": [4]}}, "the cards hold no engine of any size given"),
        ({"topology": {"cards": 4, "prefill_decode": ["1:9"]}}, "no ratio fits, as 4 cards hold 4 of the smallest"),
        ({"topology": {"cards": 4, "tensor_parallel": [3]}}, "no topology can serve: TP3"),
        ({"space": {"tensor_parallel_size": [1, 2]}}, "tensor_parallel_size is what topology searches"),
        ({"devices": [0, 1]}, "a trial takes 4 of 2 devices"),
    ],
)
def test_what_no_study_of_topologies_can_mean_is_refused(tmp_path, study, said):
    """In one line, with what was expected."""
    with pytest.raises(ScenarioError) as error:
        problem_in(tmp_path, **{"topology": {"cards": 4}, "objective": "throughput_per_card", **study})

    assert said in "\n".join(error.value.lines)
