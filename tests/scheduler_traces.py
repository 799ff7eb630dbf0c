"""Random traces for the scheduler: tiny caches, shared prefixes, preemption, every switch both ways."""

from typing import Any

import numpy as np


def random_trace(seed: int) -> dict[str, Any]:
    """One trace, the same for the same seed, in the format of `python -m harness.simulator.replay`."""
    rng = np.random.default_rng([seed, 2026])
    config = _config(rng)
    prefixes = [_tokens(rng, int(rng.integers(1, config["max_model_len"] // 2))) for _ in range(3)]
    requests: list[dict[str, Any]] = []
    step = 0
    for number in range(int(rng.integers(2, 25))):
        step += int(rng.choice([0, 0, 1, 2, 7]))
        requests.append({"id": str(number), "arrival_step": step, **_request(rng, config, prefixes)})
    return {"config": config, "requests": requests}


def random_speculation(seed: int) -> dict[str, Any]:
    """A random trace with draft tokens, of n-grams or of a layer that drafts; each request accepts in its own way."""
    rng = np.random.default_rng([seed, 1202])
    trace = random_trace(seed)
    config, drafts = trace["config"], int(rng.integers(1, 6))
    config |= {"speculative_method": str(rng.choice(["ngram", "mtp"])), "num_speculative_tokens": drafts}
    if config["long_prefill_token_threshold"]:  # vLLM asserts that a padded decode is not cut
        config["long_prefill_token_threshold"] = max(config["long_prefill_token_threshold"], 1 + drafts)
    whole = -(-config["max_model_len"] // config["block_size"])
    config["num_blocks"] = max(config["num_blocks"], whole + 2)  # else one preempts itself for ever, as in vLLM
    for request in trace["requests"]:
        request["accepted"] = [int(count) for count in rng.integers(0, drafts + 1, size=int(rng.integers(1, 9)))]
    return trace


def _config(rng: np.random.Generator) -> dict[str, Any]:
    block_size = int(rng.choice([1, 4, 8, 16, 32]))
    length = int(rng.choice([32, 64, 128, 256]))
    chunked = bool(rng.random() < 0.75)
    sequences = int(rng.integers(1, 12))
    least = max(sequences, 1 if chunked else length)
    budget = least + int(rng.integers(0, 2 * length))
    whole = -(-length // block_size)  # blocks of one request of full length
    config = {
        "block_size": block_size,
        "num_blocks": int(rng.integers(max(2, whole // 2), 3 * whole + 3)),
        "max_num_seqs": sequences,
        "max_num_batched_tokens": budget,
        "max_model_len": length,
        "enable_chunked_prefill": chunked,
        "enable_prefix_caching": bool(rng.random() < 0.75),
        "long_prefill_token_threshold": int(rng.choice([0, 0, 3, 16, 40])) % length,
    }
    if rng.random() < 0.15:
        config["watermark"] = float(rng.choice([0.02, 0.1]))
    if rng.random() < 0.15:
        config["scheduler_reserve_full_isl"] = False
        config["num_blocks"] += whole  # else requests preempt themselves for ever, here as in vLLM
    if rng.random() < 0.1:
        config["max_num_active_seqs"] = int(rng.integers(1, sequences + 1))
    if rng.random() < 0.1 and config["long_prefill_token_threshold"]:
        config["long_prefill_token_threshold_adaptive"] = True
    return config


def _request(rng: np.random.Generator, config: dict[str, Any], prefixes: list[list[int]]) -> dict[str, Any]:
    longest = config["max_model_len"] - 1
    kind = rng.random()
    if kind < 0.5:
        prompt = prefixes[int(rng.integers(3))][: int(rng.integers(1, longest + 1))]
        prompt = prompt + _tokens(rng, int(rng.integers(0, longest)))
    elif kind < 0.6:  # a follow-up whose prompt holds the answer of a request before it
        head = prefixes[int(rng.integers(3))]
        prompt = [*head, *range(1_000_000 + len(head), 1_000_000 + len(head) + int(rng.integers(1, 20)))]
    else:
        prompt = _tokens(rng, int(rng.integers(1, longest + 1)))
    if kind > 0.95:
        prompt = prefixes[0]
    return {"prompt": prompt[:longest], "output_tokens": int(rng.choice([1, 2, 5, 17, 40, 100]))}


def _tokens(rng: np.random.Generator, count: int) -> list[int]:
    return [int(token) for token in rng.integers(1, 1000, size=count)]
