"""The prefix cache without bounds finds what a brute-force one finds, and what the simulator's own cache finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.engine_config import settings_from_flags
from harness.simulator.virtual_time import Arrival, simulate
from harness.workload.prefix_cache import CachedPrompt, block_hashes, reusable_tokens

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"

# Few different tokens, so that prompts share beginnings; sent and over at few different times, so that these tie.
PROMPT = st.tuples(
    st.lists(st.integers(0, 1), min_size=1, max_size=14),
    st.lists(st.integers(0, 1), max_size=6),
    st.integers(0, 6),
    st.integers(1, 4),
    st.sampled_from(["", "", "adapter"]),
)


def cached(prompt, answer, sent_ns, lasts_ns, salt, size):
    """A request as the cache takes it: the last token of its answer is not computed."""
    ids = np.asarray([*prompt, *answer[:-1]], dtype=np.int32)
    return CachedPrompt(len(prompt), block_hashes(ids, size, len(salt)), sent_ns, sent_ns + lasts_ns)


def brute_force(requests, size):
    """The same by sets of whole prefixes, walked through in the order of what happens."""
    order = [(sent, 1, n) for n, (_, _, sent, _, _) in enumerate(requests)]
    order += [(sent + lasts, 0, n) for n, (_, _, sent, lasts, _) in enumerate(requests)]
    known, found = set(), [0] * len(requests)
    for _, is_sent, number in sorted(order):
        prompt, answer, _, _, salt = requests[number]
        tokens = prompt if is_sent else [*prompt, *answer[:-1]]
        prefixes = [(salt, *tokens[:end]) for end in range(size, len(tokens) + 1, size)]
        if is_sent:
            hits = [prefix in known for prefix in prefixes if len(prefix) - 1 < len(prompt)]
            found[number] = size * next((n for n, hit in enumerate([*hits, False]) if not hit), 0)
        known.update(prefixes)
    return found


@given(st.lists(PROMPT, max_size=12), st.integers(1, 4))
def test_it_finds_what_brute_force_finds(requests, size):
    """Full blocks only, never the last token, nothing across salts, in the order of sending, answers once they end."""
    prompts = [cached(*row, size) for row in requests]

    assert reusable_tokens(prompts, size).tolist() == brute_force(requests, size)


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_hashes_are_equal_where_all_tokens_before_are(one, other, size):
    """Block by block as far as both begin alike, and never after they part."""
    alike = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    first, second = (block_hashes(np.asarray(ids, dtype=np.int32), size) for ids in (one, other))
    both = min(len(first), len(second))

    assert (first[:both] == second[:both]).tolist() == [(n + 1) * size <= alike for n in range(both)]


@pytest.mark.parametrize(("chip", "block_size"), [("cpu-2core", 32), ("910B3", 128)])
def test_the_simulators_cache_finds_as_much(chip, block_size):
    """With memory for everything vLLM's own rules, as the simulator has them, find exactly the same of every prompt."""
    rng = np.random.default_rng(5)
    shared = [rng.integers(0, 4000, 700) for _ in range(3)]
    prompts = [
        np.concatenate([shared[rng.integers(3)][: rng.integers(1, 700)], rng.integers(0, 4000, rng.integers(0, 300))])
        for _ in range(150)
    ]
    prompts = [*prompts, *prompts[:20], *(prompt[: len(prompt) // 2 + 1] for prompt in prompts[:20])]
    sent_ns = np.sort(rng.integers(0, 8 * 10**9, len(prompts))).tolist()
    flags = {
        "chip": chip,
        "block_size": block_size,
        "max_model_len": 4096,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 512,
    }
    settings = settings_from_flags({"model": MODEL, **flags})
    arrivals = [Arrival(at, ids.tolist(), 12) for at, ids in zip(sent_ns, prompts, strict=True)]
    done = simulate(settings, arrivals)
    own = [
        CachedPrompt(len(ids), block_hashes(ids.astype(np.int32), block_size), at, int(times[-1]))
        for ids, at, times in zip(prompts, sent_ns, done.token_ns, strict=True)
    ]

    assert settings.block_size == block_size
    assert reusable_tokens(own, block_size).tolist() == done.cached_tokens.tolist()
    assert done.cached_tokens.sum() > 5000


def test_of_nothing_nothing_is_found():
    """No prompts, and prompts shorter than a block."""
    assert reusable_tokens([], 16).tolist() == []
    assert reusable_tokens([cached([1, 2], [3], 0, 1, "", 16)] * 2, 16).tolist() == [0, 0]
