"""The simulated engine starts, or refuses to, as the real one on that device."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import EngineError
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import BlockPool, cache_labels, memory_of
from harness.simulator.vllm_formats import startup_lines

GIB = 1 << 30
QWEN = {"model": "Qwen/Qwen3-8B"}


def memory(**flags):
    """The memory of an engine with these flags."""
    return memory_of(settings_from_flags({**QWEN, **flags}))


def test_the_cache_is_what_the_share_leaves():
    """Requested less weights, activation and what lies outside, in whole blocks of 18 MiB."""
    found = memory()

    assert found.requested == int(found.total * 0.92)
    assert found.cache == found.requested - found.weights - found.activation - found.outside
    assert found.block_bytes == 18 << 20
    assert found.num_blocks == found.cache // found.block_bytes
    assert found.weights / GIB == pytest.approx(15.27, rel=0.01)


def test_adapters_take_their_slots_and_a_second_set_of_graphs():
    """Rank x (rows + columns) of each of seven matrices, for each slot, whatever is loaded; graphs come twice."""
    matrices = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 12288), (4096, 12288), (12288, 4096)]
    slot = 36 * 2 * 32 * sum(rows + columns for rows, columns in matrices)
    plain, with_slots = memory(), memory(enable_lora=True, max_loras=4, max_lora_rank=32)

    assert with_slots.weights == plain.weights + 4 * slot
    assert with_slots.cache == plain.cache - 4 * slot
    assert with_slots.graphs == 2 * plain.graphs


def test_adapters_are_split_over_cards_by_half():
    """Of a matrix that is split by columns the first factor stays whole, of one that is split by rows the second."""
    one, two = (memory(tensor_parallel_size=tp, enable_lora=True, max_loras=8).weights for tp in (1, 2))
    bare_one, bare_two = (memory(tensor_parallel_size=tp).weights for tp in (1, 2))
    whole = 8 * 36 * 2 * 16 * (3 * 4096 + 4096 + 2 * 4096 + 4096)

    assert 2 * (two - bare_two) - (one - bare_one) == whole


def test_a_published_start_is_met():
    """Qwen2.5-14B on one 910B at 0.6: 27.54 GiB of weights, 0.26 at the peak, 0.18 outside, 0.47 of graphs."""
    found = memory(model="Qwen2.5-14B", gpu_memory_utilization=0.6)

    assert found.total / GIB == pytest.approx(60.96, abs=0.01)
    assert found.free / GIB == pytest.approx(60.61, abs=0.02)
    assert found.weights / GIB == pytest.approx(27.54, rel=0.01)
    assert found.activation / GIB == pytest.approx(0.26, abs=0.02)
    assert found.outside / GIB == pytest.approx(0.18, abs=0.01)
    assert found.graphs / GIB == pytest.approx(0.47, rel=0.1)
    assert 43904 / 128 * found.block_bytes / GIB == pytest.approx(8.04, abs=0.01)


def test_every_knob_moves_the_cache_as_on_the_device():
    """More tokens a step mean less, more cards or a larger share more, 8-bit weights more."""
    base = memory().num_blocks

    assert memory(max_num_batched_tokens=16384).num_blocks < base
    assert memory(gpu_memory_utilization=0.8).num_blocks < base
    assert memory(tensor_parallel_size=2).num_blocks > 2 * base
    assert memory(model="Qwen3-8B-W8A8").num_blocks > base
    assert memory(kv_cache_memory_bytes=GIB, max_model_len=4096).num_blocks == GIB // (18 << 20)
    assert memory(num_gpu_blocks_override=77, max_model_len=8192).num_blocks == 77


def test_the_longest_context_that_fits_is_found():
    """max_model_len auto takes the model's own where it fits, and else what the cache holds."""
    assert memory(max_model_len="auto").max_model_len == 40960
    assert memory(max_model_len=-1, kv_cache_memory_bytes=GIB).max_model_len == (GIB // (18 << 20) - 1) * 128


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"gpu_memory_utilization": 0.25}, "No available memory for the cache blocks. Try increasing"),
        ({"model": "Qwen2.5-72B"}, "No available memory for the cache blocks"),
        ({"kv_cache_memory_bytes": GIB}, r"max seq len \(40960\), \(5.62 GiB KV cache is needed"),
        ({"kv_cache_memory_bytes": GIB}, "the estimated maximum model length is 7040"),
        (
            {"max_num_batched_tokens": 64, "max_num_seqs": 65},
            r"max_num_batched_tokens \(64\) must be greater than or equal to max_num_seqs",
        ),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 4096}, "is smaller than max_model_len"),
        ({"max_num_seqs": 8, "max_num_active_seqs": 9}, r"max_num_active_seqs \(9\) cannot be greater"),
        ({"tensor_parallel_size": 3}, r"attention heads \(32\) must be divisible by tensor parallel size \(3\)"),
        ({"max_model_len": 50000}, r"max_model_len \(50000\) is greater than the derived max_model_len"),
        ({"gpu_memory_utilization": 1.0}, "Free memory on device"),
        ({"gpu_memory_utilization": 0.99}, "NPU out of memory. Tried to allocate"),
        ({"block_size": 64, "enable_chunked_prefill": False, "enable_prefix_caching": False}, "No common block size"),
        ({"block_size": 48, "chip": "cpu", "model": "Qwen2.5-0.5B"}, "No common block size"),
        ({"max_model_len": "auto", "kv_cache_memory_bytes": 18 << 20}, "Cannot auto-fit max_model_len"),
    ],
)
def test_what_would_not_start_is_refused_in_the_engines_words(flags, said):
    """Out of memory for cache, context or graphs, and settings that contradict each other."""
    with pytest.raises(EngineError, match=said) as caught:
        memory(**flags)

    assert caught.value.exit_code == 3
    assert len(str(caught.value).splitlines()) == 1


def test_eager_mode_needs_no_memory_for_graphs():
    """The same share that runs out of memory at capture starts without graphs."""
    assert memory(gpu_memory_utilization=0.99, enforce_eager=True).graphs == 0


def test_the_log_of_a_start_is_in_vllms_formats():
    """A parser of the real log finds weights, cache, blocks, graphs and the suggested cache size."""
    settings = settings_from_flags({**QWEN, "block_size": 16, "max_num_seqs": 64, "num_gpu_blocks_override": 500})
    found = memory_of(settings)
    log = "\n".join(startup_lines(settings, found))
    size = re.search(
        r"^NPU KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x$",
        log,
        re.MULTILINE,
    )
    suggested = re.search(r"`--kv-cache-memory=(\d+)` \(([\d.]+) GiB\) to fit into requested memory", log)

    assert size is not None
    assert int(size[1].replace(",", "")) == found.cache_tokens
    assert float(size[3]) == pytest.approx(found.num_blocks / 320, abs=0.01)
    assert suggested is not None
    assert int(suggested[1]) == found.cache - found.graphs - (150 << 20)
    assert re.search(r"^Loading model weights took 15\.\d{4} GB$", log, re.MULTILINE)
    assert re.search(r"^Available KV cache memory: \d+\.\d\d GiB$", log, re.MULTILINE)
    assert re.search(r"^Graph capturing finished in 0 secs, took 0\.\d\d GiB$", log, re.MULTILINE)
    assert "Block size is set to 128" in log
    assert f"Overriding num_gpu_blocks={found.cache // found.block_bytes} with num_gpu_blocks_override=500" in log
    assert log.splitlines()[0].startswith("npu-harness simulator")


def test_the_suggested_cache_starts_and_leaves_room_for_graphs():
    """Taken at its word, the engine starts with as many blocks as fit into it."""
    suggested = memory().suggested_cache

    assert memory(kv_cache_memory_bytes=suggested).num_blocks == suggested // (18 << 20)


def test_metrics_repeat_the_cache_configuration():
    """The labels of vllm:cache_config_info hold what the flags became."""
    settings = settings_from_flags({**QWEN, "block_size": 32})
    labels = cache_labels(settings, memory_of(settings))

    assert labels["block_size"] == 128
    assert labels["num_gpu_blocks"] == memory(block_size=32).num_blocks
    assert labels["kv_cache_size_tokens"] == memory().cache_tokens


class PlainPool:
    """The same rules on plain lists: the oracle."""

    def __init__(self, count):
        self.queue = list(range(1, count))
        self.refs = [0] * count
        self.content = {}

    def take(self, count):
        taken, self.queue = self.queue[:count], self.queue[count:]
        for block in taken:
            self.content.pop(block, None)
            self.refs[block] = 1
        return taken

    def hold(self, blocks):
        for block in blocks:
            if self.refs[block] == 0:
                self.queue.remove(block)
            self.refs[block] += 1

    def release(self, blocks):
        for block in blocks:
            self.refs[block] -= 1
        gone = [block for block in reversed(blocks) if self.refs[block] == 0]
        plain = [block for block in gone if block not in self.content]
        self.queue = plain + self.queue + [block for block in gone if block in self.content]


@given(seed=st.integers(0, 10_000), count=st.integers(2, 12))
def test_the_pool_does_what_plain_lists_do(seed, count):
    """Any order of taking, remembering, sharing and freeing leaves the queue as the oracle's."""
    rng = np.random.default_rng(seed)
    pool, plain, held = BlockPool(count, caching=True), PlainPool(count), []
    for turn in range(40):
        act = rng.integers(4)
        if act == 0:
            wanted = int(rng.integers(0, len(plain.queue) + 1))
            taken = pool.take(wanted)
            assert taken == plain.take(wanted)
            held += [taken] if taken else []
        elif act == 1 and held:
            blocks = held.pop(int(rng.integers(len(held))))
            pool.release(blocks)
            plain.release(blocks)
        elif act == 2 and held:
            block = held[-1][-1]
            if block not in plain.content:
                pool.remember(block, 1000 + turn)
                plain.content[block] = 1000 + turn
        elif act == 3 and plain.content:
            content = next(iter(plain.content.values()))
            found = pool.find(content)
            pool.hold([found])
            plain.hold([found])
            held.append([found])

    assert pool.free == len(plain.queue)
    assert pool.take(pool.free) == plain.queue


def test_of_equal_contents_the_first_is_found():
    """Two blocks with one content are both remembered; when the first is reused the other serves."""
    pool = BlockPool(4, caching=True)
    first, second = pool.take(2)
    pool.remember(first, 7)
    pool.remember(second, 7)

    assert pool.find(7) == first
    pool.release([first])
    pool.take(2)
    assert pool.find(7) == second


def test_a_remembered_block_outlives_a_plain_one():
    """Freed blocks without content are reused at once, remembered ones last."""
    pool = BlockPool(4, caching=True)
    blocks = pool.take(3)
    pool.remember(blocks[0], 9)
    pool.release(blocks)

    assert pool.take(3) == [blocks[2], blocks[1], blocks[0]]


def test_usage_counts_held_blocks():
    """The null block counts neither as used nor as usable."""
    pool = BlockPool(5, caching=True)
    pool.take(1)

    assert pool.usage == 0.25
    assert BlockPool(1, caching=True).usage == 0.0
