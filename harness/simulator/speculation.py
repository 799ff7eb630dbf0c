"""Speculation as `--speculative-config` sets it: method, draft tokens, and how many of them are accepted.

Nothing is drafted here. The number accepted at a step is drawn from a list of rates by position, as vLLM's own
`rejection_sample_method: synthetic` does: entry i is the chance that the first i + 1 draft tokens are all accepted,
which is what vLLM prints as "Per-position acceptance rate". A draw depends on prompt, seed and position alone, so a
request accepts the same in every schedule.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from harness.errors import InputError, suggestion
from harness.messages import message

# Rates by position where the flags give none.
# mtp: gsm8k at temperature 0, eight draft tokens (vllm pull request 48892).
# eagle: MT-Bench at temperature 0, ten draft tokens (vllm pull request 26498).
# ngram: none were published for plain text; a chance of 0.56 for each next token, which gives the 23.9 % of all draft
# tokens that vllm-ascend's guide to suffix decoding shows for ShareGPT.
_MTP = (0.762, 0.616, 0.513, 0.424, 0.364, 0.309, 0.272, 0.237)
_EAGLE = (0.74, 0.54, 0.41, 0.30, 0.22, 0.16, 0.12, 0.08, 0.05, 0.02)
_NGRAM = (0.56, 0.314, 0.176, 0.098, 0.055)
DEFAULT_RATES: Mapping[str, tuple[float, ...]] = {
    "mtp": _MTP,
    "eagle": _EAGLE,
    "eagle3": _EAGLE,
    "ngram": _NGRAM,
    "suffix": _NGRAM,
}
_KEYS = frozenset(
    [
        "attention_backend",
        "code_revision",
        "disable_eagle_block_drop",
        "disable_padded_drafter_batch",
        "draft_load_config",
        "draft_sample_method",
        "draft_tensor_parallel_size",
        "dspark_draft_topk",
        "enable_adaptive_verification",
        "enforce_eager",
        "index_share_for_mtp_iteration",
        "kv_cache_dtype",
        "max_model_len",
        "method",
        "model",
        "moe_backend",
        "num_speculative_tokens",
        "num_speculative_tokens_per_batch_size",
        "parallel_drafting",
        "prompt_lookup_max",
        "prompt_lookup_min",
        "quantization",
        "rejection_sample_method",
        "revision",
        "suffix_decoding_max_cached_requests",
        "suffix_decoding_max_spec_factor",
        "suffix_decoding_max_tree_depth",
        "suffix_decoding_min_token_prob",
        "synthetic_acceptance_length",
        "synthetic_acceptance_rates",
        "tensor_parallel_size",
        "use_heterogeneous_vocab",
        "use_local_argmax_reduction",
    ]
)  # of vLLM's SpeculativeConfig
_WITH_LAYER = ("mtp", "eagle", "eagle3")  # drafted by a layer of their own, which has a KV cache
_MIX, _WORD = 0x9E3779B97F4A7C15, (1 << 64) - 1

Accept = Callable[[int, int], int]
"""(number of tokens so far, draft tokens verified) to the draft tokens accepted."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """Draft tokens a step and request, the method that makes them, and their acceptance rates by position."""

    method: str
    tokens: int
    rates: tuple[float, ...]

    @property
    def has_layer(self) -> bool:
        """Whether a layer beside the model's drafts: it has weights and a KV cache, and needs slots ahead."""
        return self.method in _WITH_LAYER

    def accept(self, seed: int) -> Accept:
        """How many draft tokens of a request with this seed are accepted at each length."""
        rates = self.rates

        def accepted(position: int, verified: int) -> int:
            chance = _uniform(seed, position)
            count = 0
            while count < verified and chance < rates[count]:
                count += 1
            return count

        return accepted


def _uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from two others, equally spread (the mixing steps of splitmix64)."""
    mixed = (seed * _MIX + position) * _MIX & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
    return (mixed ^ (mixed >> 31)) / (_WORD + 1)


@lru_cache(maxsize=64)
def speculation_from(config: str, rates: tuple[float, ...] = ()) -> Speculation | None:
    """What `speculative_config` (JSON) sets, None for ""; `rates` by position, where given, replace its own.

    Raises:
        InputError: a key or its method is unknown, or its numbers are out of range.
    """
    if not config:
        if rates:
            raise InputError(message("simulator.rates_without_speculation"))
        return None
    given = mapping_of(config)
    if unknown := next((key for key in given if key not in _KEYS), None):
        raise InputError(message("simulator.speculative_key", key=unknown, suggestion=suggestion(unknown, _KEYS)))
    method = _method(given)
    tokens = given.get("num_speculative_tokens", 1 if method == "mtp" else None)
    if type(tokens) is not int or not 1 <= tokens <= 64:
        raise InputError(message("simulator.speculative_tokens", value=repr(tokens)))
    return Speculation(method, tokens, _rates(method, tokens, rates or _synthetic(given, tokens)))


def mapping_of(config: Any) -> dict[str, Any]:
    """A mapping, or JSON of one, as a mapping.

    Raises:
        TypeError, ValueError: it is neither.
    """
    return dict(json.loads(config) if isinstance(config, str) else config)


def _method(given: Mapping[str, Any]) -> str:
    """The method by its plain name; vLLM takes names such as deepseek_mtp, too, and ngram needs no word."""
    method = str(given.get("method") or ("ngram" if given.get("model") in (None, "ngram", "[ngram]") else "eagle3"))
    method = "mtp" if method.endswith("_mtp") else method.removesuffix("_gpu")
    if method not in DEFAULT_RATES:
        raise InputError(
            message("simulator.speculative_method", method=method, suggestion=suggestion(method, DEFAULT_RATES))
        )
    return method


def _synthetic(given: Mapping[str, Any], tokens: int) -> tuple[float, ...]:
    """The rates of vLLM's synthetic sampling: by position, or spread from a mean accepted length."""
    if given.get("synthetic_acceptance_rates") is not None:
        return tuple(given["synthetic_acceptance_rates"])
    length = given.get("synthetic_acceptance_length")
    if length is None:
        return ()
    if not 1 <= length <= tokens + 1:
        raise InputError(message("simulator.acceptance_length", value=length, most=tokens + 1))
    drafts = float(length) - 1
    return tuple(min(1.0, max(0.0, drafts - place)) for place in range(tokens))


def _rates(method: str, tokens: int, given: tuple[float, ...]) -> tuple[float, ...]:
    """So many rates as there are draft tokens; a list that is shorter goes on as its last step fell."""
    rates = list(given or DEFAULT_RATES[method])
    try:
        falling = all(0 <= rate <= 1 for rate in rates) and all(a >= b for a, b in pairwise(rates))
    except TypeError:
        falling = False
    if not falling:
        raise InputError(message("simulator.acceptance_rates", value=repr(list(given))))
    ratio = rates[-1] / rates[-2] if len(rates) > 1 and rates[-2] else rates[-1]
    while len(rates) < tokens:
        rates.append(rates[-1] * ratio)
    return tuple(rates[:tokens])
