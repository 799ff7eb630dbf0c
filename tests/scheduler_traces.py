"""Random traces for the scheduler: tiny caches, shared prefixes, preemption, every switch both ways."""

import copy
import hashlib
import json
from pathlib import Path
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
    """A random trace with draft tokens."""
    return with_drafts(random_trace(seed), seed)


def with_drafts(trace: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same requests with draft tokens, of n-grams or of a layer that drafts; each accepts in its own way."""
    rng = np.random.default_rng([seed, 1202])
    trace = copy.deepcopy(trace)
    config, drafts = trace["config"], int(rng.integers(1, 6))
    config |= {"speculative_method": str(rng.choice(["ngram", "mtp"])), "num_speculative_tokens": drafts}
    if config["long_prefill_token_threshold"]:  # vLLM asserts that a padded decode is not cut
        config["long_prefill_token_threshold"] = max(config["long_prefill_token_threshold"], 1 + drafts)
    whole = -(-config["max_model_len"] // config["block_size"])
    config["num_blocks"] = max(config["num_blocks"], whole + 2)  # else one preempts itself for ever, as in vLLM
    for request in trace["requests"]:
        request["accepted"] = [int(count) for count in rng.integers(0, drafts + 1, size=int(rng.integers(1, 9)))]
    return trace


def by_priority(trace: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same requests under the priority policy, each with a priority of its own."""
    rng = np.random.default_rng([seed, 2027])
    changed = copy.deepcopy(trace)
    changed["config"]["scheduling_policy"] = "priority"
    levels = int(rng.integers(1, 5))
    for request in changed["requests"]:
        request["priority"] = int(rng.integers(-levels, levels + 1))
    return changed


def under_033(trace: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same requests under the rules of vLLM 0.33, every other one with a cadence of prefills."""
    rng = np.random.default_rng([seed, 2028])
    changed = copy.deepcopy(trace)
    changed["config"]["engine_version"] = "0.33"
    if rng.random() < 0.5:
        changed["config"]["prefill_schedule_interval"] = int(rng.choice([2, 3, 4, 8, 20]))
    return changed


def with_adapters(trace: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same requests, most of them for a LoRA adapter, and room for a few adapters at a time."""
    rng = np.random.default_rng([seed, 2029])
    changed = copy.deepcopy(trace)
    changed["config"]["max_loras"] = int(rng.integers(1, 4))
    for request in changed["requests"]:
        request["adapter"] = int(rng.integers(0, 6))
    return changed


def with_lookahead(trace: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same requests, where no chunk may end just before a prompt's end."""
    changed = copy.deepcopy(trace)
    changed["config"]["num_prefill_lookahead"] = int(np.random.default_rng([seed, 2030]).integers(2, 6))
    return changed


VARIANTS: dict[str, tuple[Any, ...]] = {
    "plain": (),
    "priority": (by_priority,),
    "adapters": (with_adapters,),
    "lookahead": (with_lookahead,),
    "drafts": (with_drafts,),
    "all": (by_priority, with_adapters, with_lookahead),
}
"""What random traces are changed by."""


DIGESTS = Path(__file__).parent / "golden" / "scheduler_digests.json"
"""By version and variant: what the real scheduler's steps came to, of the first seeds."""
DIGESTED = 40


def variant(seed: int, name: str, *, version: str) -> dict[str, Any]:
    """A random trace of a variant, under the rules of vLLM 0.32 or 0.33."""
    trace = random_trace(seed)
    for change in (*VARIANTS[name], *((under_033,) if version == "0.33" else ())):
        trace = change(trace, seed)
    return trace


def random_fetches(seed: int) -> dict[str, Any]:
    """A random trace, with draft tokens or without, in which half of the KV caches are fetched from elsewhere."""
    rng = np.random.default_rng([seed, 77])
    trace = random_speculation(seed) if rng.random() < 0.4 else random_trace(seed)
    config = trace["config"]
    whole = -(-config["max_model_len"] // config["block_size"])
    config["num_blocks"] = max(config["num_blocks"], whole + 2)
    for request in trace["requests"]:
        if rng.random() < 0.5:
            request["fetch_steps"] = int(rng.integers(0, 8))
    return trace


def digest(steps: Any) -> str:
    """Steps in a few letters, equal where they are."""
    return hashlib.sha256(json.dumps(steps, sort_keys=True).encode()).hexdigest()[:12]


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
