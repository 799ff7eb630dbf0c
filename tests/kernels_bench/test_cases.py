"""Axes make the cases that are meant, with their work counted right and nonsense skipped with a reason."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_bench.axes import Axes, KvLengths, Skipped, StepMix, expand, problem
from kernels_bench.cases import Case, blocks_of, visible_pairs
from kernels_bench.presets import PRESETS, Shape, under_tensor_parallel

DECODE = Case("decode", (1, 1), (300, 20), 28, 4, 128)
MLA = Case("mla_decode", (1,), (100,), 16, 1, 192, kv_lora_rank=512, rope_size=64)


def fixed(*lengths):
    """An axis of KV lengths, the same for all sequences."""
    return [KvLengths(length, lambda batch, length=length: (length,) * batch) for length in lengths]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), min_size=1, max_size=5))
def test_visible_pairs_are_counted_as_a_mask_would(shapes):
    """The closed form equals the count of ones in the causal mask aligned at the right."""
    query_lens = tuple(query for query, _ in shapes)
    kv_lens = tuple(query + before for query, before in shapes)
    counted = sum(
        position <= kv - query + row
        for query, kv in zip(query_lens, kv_lens, strict=True)
        for row in range(query)
        for position in range(kv)
    )

    assert visible_pairs(query_lens, kv_lens) == counted


def test_work_of_a_decode_is_that_of_the_formula():
    """Four FLOPs a head, its width and a visible token; every cached token is read once, in keys and values."""
    work = DECODE.work

    assert work.flops == 4 * 28 * 128 * 320
    assert work.read_bytes == 320 * 2 * 4 * 128 * 2 + 2 * 28 * 128 * 2 + (3 + 1) * 4
    assert work.write_bytes == 2 * 28 * 128 * 2
    assert work.intensity == pytest.approx(work.flops / (work.read_bytes + work.write_bytes))


def test_work_of_mla_reads_one_compressed_head():
    """Scores over both cached parts, values over the first; one vector a token, whatever the heads."""
    work = MLA.work

    assert work.flops == 2 * 16 * (512 + 64 + 512) * 100
    assert work.read_bytes == 100 * 576 * 2 + 16 * 576 * 2 + 4
    assert MLA.scale == pytest.approx(192**-0.5)


def test_a_write_has_no_flops():
    """Keys and values of the new tokens are read and written; nothing is computed."""
    work = dataclasses.replace(DECODE, phase="kv_write").work

    assert work.flops == 0
    assert work.write_bytes == 2 * 2 * 4 * 128 * 2


def test_blocks_round_up():
    """A token more than a block takes another block."""
    assert [blocks_of(length, 128) for length in (1, 128, 129)] == [1, 1, 2]
    assert (DECODE.used_blocks, DECODE.max_blocks, DECODE.cache_blocks) == (4, 3, 4)


def test_every_combination_is_a_case_or_is_skipped():
    """Nothing falls out of the product of the axes."""
    axes = Axes(
        shapes=[("Qwen2.5-7B", PRESETS["Qwen2.5-7B"])],
        phases=("decode", "chunked_prefill"),
        batches=(1, 4),
        query_tokens=(64,),
        kv_lengths=fixed(32, 512),
        block_sizes=(32, 128),
    )
    made = expand(axes)

    assert len(made) == 2 * 2 * 2 * 2
    assert {str(one.reason) for one in made if isinstance(one, Skipped)} == {
        "a query of 64 tokens is longer than its KV of 32; expected query_tokens of at most 32"
    }
    assert made[0].labels[-2:] == (("batch", 1), ("kv_tokens", 32))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head_size": 0}, "head size 0"),
        ({"kv_heads": 3}, "3 KV heads do not divide 28 heads; expected 2 or 4"),
        ({"kv_heads": 0}, "0 KV heads"),
        ({"block_size": 0}, "block size 0"),
        ({"query_lens": (0, 1)}, "a query of no tokens"),
        ({"query_lens": (1,)}, "a query length and a KV length a sequence"),
        ({"dtype": "int4"}, "dtype 'int4' is none of"),
        ({"order": "sorted"}, "order 'sorted' is none of"),
        ({"phase": "mla_decode"}, "no MLA shape"),
    ],
)
def test_nonsense_has_a_reason(change, reason):
    """A case that no kernel can run is told why."""
    assert problem(DECODE) is None
    assert str(problem(dataclasses.replace(DECODE, **change))).startswith(reason)


def test_mla_models_decode_in_the_compressed_form():
    """A decode of such a model is an mla_decode; its prefill is skipped with the reason."""
    shapes = [("DeepSeek-V2-Lite", PRESETS["DeepSeek-V2-Lite"])]
    decode, prefill = expand(Axes(shapes, ("decode", "prefill"), kv_lengths=fixed(64)))

    assert (decode.phase, problem(decode)) == ("mla_decode", None)
    assert "plain attention" in str(prefill.reason)


def test_a_cache_too_small_for_a_batch_skips_it():
    """The sequences have to fit the cache size that was asked for."""
    shape = [("tiny", Shape(4, 2, 64))]
    block_bytes = 128 * 2 * 2 * 64 * 2
    made = expand(Axes(shape, batches=(1, 3), kv_lengths=fixed(200), cache_bytes=5 * block_bytes))

    assert made[0].num_blocks == 5
    assert str(made[1].reason).startswith("needs 6 blocks; the cache has 5: expected a cache of at least 0.00")


def test_steps_of_an_engine_are_called_what_they_are():
    """All decode, all prefill, or between: the phase follows from the lengths."""
    steps = [
        StepMix("a", (1, 1), (9, 5)),
        StepMix("b", (7,), (7,)),
        StepMix("c", (1, 4), (9, 9)),
        StepMix("d", (4,), (9,)),
    ]
    made = expand(Axes([("tiny", Shape(4, 2, 64))], phases=(), steps=steps))

    assert [one.phase for one in made] == ["decode", "prefill", "mixed", "chunked_prefill"]


def test_tensor_parallelism_divides_heads_and_copies_the_last():
    """KV heads are divided until one is left; heads that cannot be divided are refused."""
    assert under_tensor_parallel(Shape(28, 4, 128), 2) == Shape(14, 2, 128)
    assert under_tensor_parallel(Shape(64, 8, 128), 16) == Shape(4, 1, 128)
    with pytest.raises(
        ValueError, match="28 heads cannot be divided over 8 devices; expected one of 1, 2, 4, 7, 14, 28"
    ):
        under_tensor_parallel(Shape(28, 4, 128), 8)


def test_a_parallel_size_that_does_not_fit_is_skipped():
    """It stands in the table with its reason."""
    made = expand(Axes([("Qwen2.5-7B", PRESETS["Qwen2.5-7B"])], kv_lengths=fixed(64), tensor_parallel_sizes=(1, 8)))

    assert [type(one).__name__ for one in made] == ["Case", "Skipped"]
