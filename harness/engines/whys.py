"""Why is a flag not what was asked for?

For what is known to be rewritten, in words of ours; else in the engine's own, where a line that it
logged is about the flag. No sentence is better than a guess.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from harness.engines.installed import Installed
from harness.errors import nearest

_ADDITIONAL = "additional_config."
Sentence = Callable[[Any, Any], str]


def left_open(asked: Any) -> bool:
    """Whether a value leaves the choice to the engine."""
    return str(asked).lower() in ("auto", "none", "-1")


def _always(text: str) -> Sentence:
    return lambda _asked, _effective: text


def _capture_sizes(_asked: Any, effective: Any) -> str:
    if not effective:
        return "no graphs are captured: in eager mode, or on a platform without them"
    return "sizes above the largest batch are dropped, and with tensor parallelism those that it does not divide"


def _graph_mode(_asked: Any, effective: Any) -> str:
    if effective == "NONE":
        return "no graphs are captured: in eager mode, or on a platform without them"
    return "the attention backend cannot be captured as asked; the engine takes the nearest mode that can"


def _length(asked: Any, _effective: Any) -> str:
    if left_open(asked):
        return "as long as the model allows and the KV cache holds"
    return "fitted to what the model allows and the KV cache holds"


# What vLLM is known to rewrite on any platform; the last lines are of platforms where the feature is not there.
_KNOWN: dict[str, Sentence] = {
    "max_model_len": _length,
    "cudagraph_capture_sizes": _capture_sizes,
    "max_cudagraph_capture_size": _always("no graph is larger than the largest batch"),
    "cudagraph_mode": _graph_mode,
    "async_scheduling": _always("not with this executor, platform, pipeline or kind of speculation"),
    "enable_chunked_prefill": _always("V1 schedules generation with chunked prefill, and some models without any"),
    "enable_prefix_caching": _always("this kind of model does not share its cache by prefix"),
    "kv_cache_memory_bytes": _always("VLLM_CPU_KVCACHE_SPACE in the environment comes first"),
}
_ASCEND: dict[str, Sentence] = {
    "block_size": _always(
        "vllm-ascend makes it 128 where prefix caching or chunked prefill is on, as its attention kernels want"
    ),
    "max_num_batched_tokens": _always("rounded up to a multiple of the ranks that share a sequence"),
    "max_num_partial_prefills": _always("vllm-ascend prefills one long prompt at a time"),
    "disable_cascade_attn": _always("vllm-ascend has no cascade attention"),
    "additional_config.enable_shared_expert_dp": _always("only with expert parallelism over several devices"),
    "enable_dbo": _always("vllm-ascend has no dual batch overlap"),
}


def why(flag: str, asked: Any, effective: Any, found: Installed, said: Iterable[str] = ()) -> str:
    """The reason in a few words, "" where none is known. `said` are lines of the engine's log."""
    if flag.startswith(_ADDITIONAL) and effective is None:
        return _unread(flag.removeprefix(_ADDITIONAL), found)
    known = {**_KNOWN, **(_ASCEND if found.ascend else {})}.get(flag)
    if known is not None:
        return known(asked, effective)
    if left_open(asked):
        return "left to the engine"
    return next((line for line in said if _is_about(flag, line)), "")


def _unread(key: str, found: Installed) -> str:
    version = " ".join(filter(None, ["vllm-ascend", found.versions.get("vllm-ascend")]))
    near = nearest(key, sorted(found.additional_keys))
    return f"{version} reads no such key" + (f"; did you mean {near!r}?" if near else "")


def _is_about(flag: str, line: str) -> bool:
    """Whether a line names the flag, in any spelling."""
    words = flag.rpartition(".")[2].removeprefix("enable_").split("_")
    return re.search(r"(?<![a-z])" + "[ _-]?".join(map(re.escape, words)) + r"(?![a-z])", line.lower()) is not None
