"""The calls of an NPU's operators are planned right, without an NPU and without torch."""

import contextlib
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_bench.cases import PHASES, Case
from kernels_bench.providers import ascend_arguments, ascend_device, ascend_graph, torch_npu
from kernels_bench.providers.ascend_limits import LIMITS, broken_limit
from kernels_bench.providers.base import Unavailable

COMMON = Path(__file__).parent.parent / "data" / "npu_smi" / "common_910b1.txt"
DECODE = Case("decode", (1, 1), (5, 200), heads=8, kv_heads=2, head_size=128)
CHUNKED = replace(DECODE, phase="chunked_prefill", query_lens=(7, 64), kv_lens=(300, 128))
PREFILL = replace(DECODE, phase="prefill", query_lens=(5, 130), kv_lens=(5, 130))
WRITE = replace(DECODE, phase="kv_write", query_lens=(4, 2), kv_lens=(4, 130))
MLA = Case("mla_decode", (1, 1), (100, 260), heads=16, kv_heads=1, head_size=192, kv_lora_rank=512, rope_size=64)
MLA_WRITE = replace(MLA, phase="kv_write")

REFUSED = [
    ("fia", replace(DECODE, dtype="float32"), "float32: the operator takes float16 and bfloat16"),
    ("fia", replace(DECODE, heads=512, kv_heads=8), "512 heads: at most 256"),
    ("fia", replace(DECODE, heads=128, kv_heads=1), "128 heads share a KV head: at most 64"),
    ("fia", replace(DECODE, heads=8, kv_heads=3), "3 KV heads do not divide 8 heads"),
    ("fia", replace(DECODE, head_size=100), "head size 100: 200 bytes, no multiple of 16"),
    ("fia", replace(DECODE, head_size=512), "head size 512: below 512 in TND"),
    ("fia", replace(DECODE, block_size=8), "block size 8: a multiple of 16, at most 512, in decode"),
    ("fia", replace(DECODE, block_size=1024), "block size 1024: a multiple of 16, at most 512, in decode"),
    ("fia", replace(CHUNKED, block_size=64), "block size 64: a multiple of 128, at most 512, in chunked_prefill"),
    ("fia_v2", replace(CHUNKED, block_size=64), "block size 64: a multiple of 128, at most 512, in chunked_prefill"),
    ("fia", replace(DECODE, query_lens=(1,), kv_lens=(262_145,)), "262145 KV positions: at most 262144"),
    ("fia", replace(DECODE, query_lens=(1,) * 4097, kv_lens=(1,) * 4097), "4097 sequences: at most 4096 in TND"),
    ("fia", replace(DECODE, heads=256, kv_heads=256, head_size=256),
     "65536 values a token in the cache: at most 65535"),
    ("fia", WRITE, "fia does not compute kv_write"),
    ("fia_dense", DECODE, "fia_dense does not compute decode"),
    ("pa", CHUNKED, "pa does not compute chunked_prefill"),
    ("pa", replace(DECODE, block_size=100), "block size 100: no multiple of 16"),
    ("pa", replace(DECODE, head_size=640), "head size 640: at most 576"),
    ("pa_workspace", replace(DECODE, head_size=512, block_size=256),
     "block size 256: at most 128 for heads wider than 256"),
    ("mla_fia_v2", replace(MLA, heads=24), "24 heads: 1, 2, 4 .. 128 only"),
    ("mla_fia_v2", replace(MLA, kv_lora_rank=256), "cached parts of 256 and 64: 512 and 64 only"),
    ("mla_fia_v2", replace(MLA, kv_heads=2), "2 KV heads: MLA has 1"),
    ("mla_fia_v2", replace(MLA, block_size=2048), "block size 2048: a multiple of 16, at most 1024"),
    ("mla_atb", replace(MLA, block_size=256), "block size 256: at most 128"),
    ("mla_atb", replace(MLA, query_lens=(1,) * 8193, kv_lens=(1,) * 8193), "8193 sequences: at most 8192"),
    ("scatter_pa", MLA_WRITE, "the cache of MLA is written together with its norm and rope, not by this operator"),
    ("scatter_pa", replace(WRITE, head_size=3), "head size 3: 6 bytes, no multiple of 16"),
    ("reshape_and_cache", replace(WRITE, dtype="float32"), "float32: the operator takes float16 and bfloat16"),
]  # fmt: skip
TAKEN = [
    ("fia", DECODE), ("fia", replace(DECODE, block_size=16)), ("fia", replace(DECODE, block_size=512)),
    ("fia", CHUNKED), ("fia", replace(CHUNKED, block_size=256)), ("fia", PREFILL), ("fia_dense", PREFILL),
    ("fia_dense", replace(PREFILL, block_size=16)), ("fia", replace(DECODE, head_size=64)),
    ("fia", replace(DECODE, query_lens=(1,), kv_lens=(262_144,))), ("fia_v2", DECODE),
    ("fia", replace(CHUNKED, query_lens=(2,), kv_lens=(262_145,))),
    ("pa", replace(DECODE, head_size=512)), ("pa", replace(DECODE, block_size=256)), ("pa_workspace", DECODE),
    ("mla_fia_v2", MLA), ("mla_fia_v2", replace(MLA, block_size=1024)), ("mla_fia_v2", replace(MLA, heads=128)),
    ("mla_atb", MLA), ("scatter_pa", WRITE), ("scatter_pa", replace(WRITE, dtype="float32")),
    ("reshape_and_cache", WRITE),
]  # fmt: skip


@pytest.mark.parametrize(("path", "case", "reason"), REFUSED)
def test_a_case_beyond_a_documented_limit_is_refused_with_it(path, case, reason):
    """One line, with the case's value and what is allowed."""
    assert str(broken_limit(case, path)) == reason


@pytest.mark.parametrize(("path", "case"), TAKEN)
def test_a_case_at_the_limit_is_taken(path, case):
    """The last allowed value is allowed."""
    assert broken_limit(case, path) is None


def test_every_phase_has_a_path_and_every_path_a_phase():
    """The tables of limits and of operators name the same paths."""
    computed = {phase for phases, _rules in LIMITS.values() for phase in phases}

    assert set(LIMITS) == set(torch_npu.OPERATORS)
    assert computed == set(PHASES)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 500)), min_size=1, max_size=20))
def test_query_lengths_are_given_as_ends_and_kv_lengths_as_they_are(lengths):
    """The operator finds each sequence again: ends differ by its query length, and the last is the token count."""
    queries = tuple(query for query, _ in lengths)
    case = replace(CHUNKED, query_lens=queries, kv_lens=tuple(query + cached for query, cached in lengths))
    first, second = ascend_arguments.fused(case), ascend_arguments.fused_v2(case)
    ends = first["actual_seq_lengths"]

    assert [end - begin for begin, end in zip([0, *ends], ends, strict=False)] == list(queries)
    assert ends[-1] == case.tokens
    assert first["actual_seq_lengths_kv"] == list(case.kv_lens)
    assert (second["actual_seq_qlen"], second["actual_seq_kvlen"]) == (ends, list(case.kv_lens))


def test_the_numbers_of_paged_attention_are_those_of_the_plug_in():
    """Heads, scale, layout, block size and the causal mode; dense calls say block size 128 and give KV as ends."""
    paged, dense = ascend_arguments.fused(replace(PREFILL, block_size=256)), ascend_arguments.fused_dense(PREFILL)

    assert {name: paged[name] for name in ("num_heads", "num_key_value_heads", "input_layout", "block_size")} == {
        "num_heads": 8, "num_key_value_heads": 2, "input_layout": "TND", "block_size": 256,
    }  # fmt: skip
    assert (paged["sparse_mode"], paged["scale"]) == (3, 128**-0.5)
    assert (dense["block_size"], dense["actual_seq_lengths"], dense["actual_seq_lengths_kv"]) == (
        128,
        [5, 135],
        [5, 135],
    )
    assert ascend_arguments.paged(DECODE) == {"num_kv_heads": 2, "num_heads": 8, "scale_value": 128**-0.5}


def test_the_numbers_of_mla_are_those_of_the_plug_in():
    """One KV head, no mask, no query lengths, and the scale of the head before absorption."""
    fused, older = ascend_arguments.mla_fused(MLA), ascend_arguments.mla_atb(MLA)

    assert (fused["num_query_heads"], fused["num_key_value_heads"], fused["sparse_mode"]) == (16, 1, 0)
    assert (fused["input_layout"], fused["softmax_scale"]) == ("BNSD_NBSD", 192**-0.5)
    assert fused["actual_seq_kvlen"] == older["context_lens"] == [100, 260]
    assert (older["q_headnum"], older["kv_headnum"], older["cache_mode"]) == (16, 1, "krope_ctkv")


def everything():
    """A torch_npu that has all operators."""
    fused, second = SimpleNamespace(out=print), SimpleNamespace(out=print)
    names = {name.split(".")[0]: print for group in torch_npu.OPERATORS.values() for name in group}
    atb = SimpleNamespace(npu_multi_head_latent_attention=print)
    fused_names = {"npu_fused_infer_attention_score": fused, "npu_fused_infer_attention_score_v2": second}
    return SimpleNamespace(__version__="2.13.0", **{**names, **fused_names, "atb": atb})


@pytest.mark.parametrize("chip", ["Ascend910B3", "Ascend910_9391"])
def test_a_whole_torch_npu_has_every_path(chip):
    """On A2 and A3 nothing is missing."""
    assert [torch_npu.missing(everything(), chip, path) for path in LIMITS] == [None] * len(LIMITS)


def test_a_path_is_missing_where_the_operator_is():
    """The reason names the version and the operator; other paths are not touched."""
    package = everything()
    del package.npu_fused_infer_attention_score_v2.out
    reason = "torch_npu 2.13.0 has no npu_fused_infer_attention_score_v2.out"

    assert str(torch_npu.missing(package, "Ascend910B3", "fia_v2")) == reason
    assert str(torch_npu.missing(package, "Ascend910B3", "mla_fia_v2")) == reason
    assert torch_npu.missing(package, "Ascend910B3", "fia") is None


def test_other_chips_lack_what_the_plug_in_does_not_call_there():
    """ATB's operators on A5, everything on a 310P, whose cache has another layout."""
    on_a5 = [path for path in LIMITS if torch_npu.missing(everything(), "Ascend950PR_9589", path)]

    assert sorted(on_a5) == sorted(torch_npu.NOT_ON_A5)
    assert all(torch_npu.missing(everything(), "Ascend310P3", path) for path in LIMITS)


@pytest.mark.parametrize("asked", ["cpu", "cuda:0", "npu:x"])
def test_another_device_is_refused(asked):
    """This provider runs on NPUs only."""
    with pytest.raises(Unavailable, match=f"{asked} is no NPU"):
        torch_npu.open_provider({"device": asked})


def test_without_torch_npu_the_provider_is_not_available(monkeypatch):
    """Told in one line."""
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    with pytest.raises(Unavailable, match="torch_npu does not load"):
        torch_npu.open_provider({})


def test_what_npu_smi_tells_of_a_chip_is_read_by_names():
    """Clock, temperature and power of a recorded 910B1; nothing where a line is missing."""
    told = ascend_device.parse_common(COMMON.read_text(encoding="utf-8"))

    assert told == {"clock_mhz": 800.0, "temperature_c": 42.0, "power_w": 91.9}
    assert ascend_device.parse_common("NPU ID : 0\nAicore Freq(MHZ) : 1850") == {}


def npu_smi(folder, script):
    """A program of that name in a folder; the environment that finds it."""
    program = folder / "npu-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_npu_smi_is_asked_for_the_card_and_chip_in_use(tmp_path, monkeypatch):
    """Of visible devices 4 and 7 the second is chip 1 of card 3 on an A3; a clock without work is an idle one."""
    monkeypatch.setenv("PATH", npu_smi(tmp_path, f'echo "$*" > {tmp_path}/asked; cat {COMMON}'))
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,7")
    told = ascend_device.telemetry("Ascend910_9391", 1, None)

    assert told == {"idle_clock_mhz": 800.0, "temperature_c": 42.0, "power_w": 91.9}
    assert (tmp_path / "asked").read_text(encoding="utf-8").strip() == "info -t common -i 3 -c 1"


def test_a_clock_is_read_while_the_device_works(tmp_path, monkeypatch):
    """npu-smi answers only once work was done beside it."""
    done = tmp_path / "done"
    monkeypatch.setenv("PATH", npu_smi(tmp_path, f"until [ -e {done} ]; do :; done; cat {COMMON}"))
    told = ascend_device.telemetry("Ascend910B3", 0, done.touch)

    assert told["clock_mhz"] == 800.0


def test_work_that_fails_while_npu_smi_looks_is_not_swallowed(tmp_path, monkeypatch):
    """The error is the case's, and npu-smi does not outlive it."""
    monkeypatch.setenv("PATH", npu_smi(tmp_path, "while :; do :; done"))

    def failing():
        raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="the device is gone"):
        ascend_device.telemetry("Ascend910B3", 0, failing)


def test_without_npu_smi_nothing_is_told(tmp_path, monkeypatch):
    """And no work is done for it."""
    monkeypatch.setenv("PATH", str(tmp_path))

    assert ascend_device.telemetry("Ascend910B3", 0, lambda: pytest.fail("worked")) == {}


@pytest.mark.parametrize(
    ("name", "index", "visible", "card"),
    [
        ("Ascend910B3", 1, "", (1, 0)),
        ("Ascend910B3", 1, "4,6", (6, 0)),
        ("Ascend910B3", 2, "4,6", (2, 0)),
        ("Ascend910_9391", 5, "", (2, 1)),
        ("Ascend910_9391", 0, "7", (3, 1)),
    ],
)
def test_a_device_is_found_among_the_cards(name, index, visible, card):
    """Visible devices renumber them, and an A3 card carries two."""
    assert ascend_device.card_of(name, index, visible) == card


def test_a_stand_in_for_cann_is_seen_in_the_memory_map(tmp_path):
    """By the name of its library; a process without a map is taken as real."""
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp 0 00:00 0 /tmp/cann/libcann_stub.so\n", encoding="utf-8")

    assert ascend_device.is_hollow(maps)
    assert not ascend_device.is_hollow(tmp_path / "none")
    assert not ascend_device.is_hollow()


class FakeNpu:
    """torch.npu that writes down what is asked of it."""

    def __init__(self):
        self.done = []

    def __getattr__(self, name):
        def called(*_arguments):
            self.done.append(name)
            return self

        return called

    @contextlib.contextmanager
    def graph(self, _graph, pool):
        assert pool is self
        self.done.append("capture")
        yield
        self.done.append("captured")

    @contextlib.contextmanager
    def stream(self, _stream):
        yield


def launches(npu, **keywords):
    """One launch that writes itself down, with these arguments."""
    return [partial(lambda **_given: npu.done.append("launch"), **keywords)]


def test_launches_that_wait_are_not_captured(monkeypatch):
    """With ASCEND_LAUNCH_BLOCKING=1 the reason is told and nothing is tried."""
    monkeypatch.setenv("ASCEND_LAUNCH_BLOCKING", "1")
    npu = FakeNpu()
    provider = torch_npu.TorchNpu(everything(), npu, 0, graph_updates=False)
    npu.done = []

    assert "ASCEND_LAUNCH_BLOCKING=1" in str(provider.graph(launches(npu)))
    assert npu.done == []


def test_memory_that_torch_keeps_unused_is_free(monkeypatch):
    """Free memory is the device's and what the allocator holds back; a set switch of the queue is a fact."""
    monkeypatch.setenv("TASK_QUEUE_ENABLE", "2")
    npu = SimpleNamespace(
        get_device_properties=lambda _index: SimpleNamespace(name="Ascend910B3", cube_core_num=20),
        mem_get_info=lambda _index: (10, 64),
        memory_reserved=lambda _index: 30,
        memory_allocated=lambda _index: 4,
    )
    device = ascend_device.device(npu, 0, {"torch_npu": "2.13.0"})

    assert (device.kind, device.memory_bytes, device.cache_bytes) == ("npu", 36, ascend_device.DEFAULT_CACHE_BYTES)
    assert device.facts["TASK_QUEUE_ENABLE"] == "2"
    assert "hollow" not in device.facts


def test_a_plain_graph_replays_without_the_host():
    """After a launch outside, capture calls the operator once and a replay not at all."""
    npu = FakeNpu()
    (replay,) = ascend_graph.graphs(npu, launches(npu, lengths=[1, 2]), updated=False)
    captured, npu.done = npu.done, []
    replay()

    assert captured == ["graph_pool_handle", "launch", "synchronize", "NPUGraph", "capture", "launch", "captured"]
    assert npu.done == ["replay"]


def test_an_updated_graph_gives_each_replay_its_lengths_anew():
    """The captured task waits for an event; a replay is followed by the update that records it."""
    npu = FakeNpu()
    (replay,) = ascend_graph.graphs(npu, launches(npu, lengths=[1, 2], workspace=b""), updated=True)
    inside = npu.done[npu.done.index("capture") :]
    npu.done = []
    replay()

    assert inside == ["capture", "current_stream", "wait", "reset", "graph_task_group_begin", "launch",
                      "graph_task_group_end", "captured"]  # fmt: skip
    assert npu.done[:3] == ["current_stream", "synchronize", "replay"]
    assert npu.done[-4:] == ["graph_task_update_begin", "launch", "graph_task_update_end", "record"]


def test_a_launch_without_lengths_on_the_host_has_nothing_to_update():
    """Lists and tensors of the CPU are lengths; the list of outputs is not."""
    on = {kind: SimpleNamespace(device=SimpleNamespace(type=kind)) for kind in ("npu", "cpu")}
    print_them = partial(print)

    assert not ascend_graph.has_host_lengths(partial(print_them, query=on["npu"], out=[on["npu"]], block_size=128))
    assert ascend_graph.has_host_lengths(partial(print_them, lengths=[1]))
    assert ascend_graph.has_host_lengths(partial(print_them, context_lens=on["cpu"]))
    assert not ascend_graph.has_host_lengths(print)


def test_a_launch_without_a_workspace_cannot_be_updated():
    """The workspace of its second call would be freed while the graph still uses it; a plain capture keeps its own."""
    npu = FakeNpu()
    reason = ascend_graph.graphs(npu, launches(npu, lengths=[1, 2]), updated=True)

    assert str(reason).startswith("cannot be updated: without a workspace")
    assert npu.done == []


def test_what_cannot_be_captured_is_told_in_one_line():
    """The first line of the error."""

    def failing():
        raise RuntimeError("not in a capture\nmany more lines")

    assert str(ascend_graph.graphs(FakeNpu(), [failing], updated=False)) == "cannot be captured: not in a capture"
