"""Why is a flag not what was asked for?

For what is known to be rewritten, in words of ours; else in the engine's own, where a line that it
logged is about the flag. No sentence is better than a guess.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.engines.engine_log import BootFacts
from harness.engines.interpreter_query import ConfigCheck, InstalledEngine
from harness.errors import nearest
from harness.simulator.engine_config import canonical, whole_number

_ADDITIONAL_WHY = "additional_config."
Sentence = Callable[[Any, Any], str]


def is_left_to_engine(asked: Any) -> bool:
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
    if is_left_to_engine(asked):
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


def change_reason(flag: str, asked: Any, effective: Any, found: InstalledEngine, said: Iterable[str] = ()) -> str:
    """The reason in a few words, "" where none is known. `said` are lines of the engine's log."""
    if flag.startswith(_ADDITIONAL_WHY) and effective is None:
        return _unread(flag.removeprefix(_ADDITIONAL_WHY), found)
    known = {**_KNOWN, **(_ASCEND if found.ascend else {})}.get(flag)
    if known is not None:
        return known(asked, effective)
    if is_left_to_engine(asked):
        return "left to the engine"
    return next((line for line in said if _is_about(flag, line)), "")


def _unread(key: str, found: InstalledEngine) -> str:
    version = " ".join(filter(None, ["vllm-ascend", found.versions.get("vllm-ascend")]))
    near = nearest(key, sorted(found.additional_keys))
    return f"{version} reads no such key" + (f"; did you mean {near!r}?" if near else "")


def _is_about(flag: str, line: str) -> bool:
    """Whether a line names the flag, in any spelling."""
    words = flag.rpartition(".")[2].removeprefix("enable_").split("_")
    return re.search(r"(?<![a-z])" + "[ _-]?".join(map(re.escape, words)) + r"(?![a-z])", line.lower()) is not None


REQUESTED, RULE, ENGINE, SIMULATOR, LOG, METRICS = "as asked", "rule", "engine config code", "twin", "log", "metrics"
# Labels of vllm:cache_config_info that say something of the engine, by the flag's name.
_CACHE_NAMES = {
    "block_size": "block_size",
    "cache_dtype": "kv_cache_dtype",
    "enable_prefix_caching": "enable_prefix_caching",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "kv_cache_memory_bytes": "kv_cache_memory_bytes",
    "kv_cache_size_tokens": "kv_cache_size_tokens",
    "num_gpu_blocks": "num_gpu_blocks",
    "num_gpu_blocks_by_engine": "num_gpu_blocks_by_engine",
    "data_parallel_size": "data_parallel_size",
    "num_gpu_blocks_override": "num_gpu_blocks_override",
    "prefix_caching_hash_algo": "prefix_caching_hash_algo",
    "sliding_window": "sliding_window",
    "swap_space": "swap_space",
    "cpu_offload_gb": "cpu_offload_gb",
}
_CONFIG_NAMES = {"max_seq_len": "max_model_len", "chunked_prefill_enabled": "enable_chunked_prefill"}
_GRAPH_FLAGS = ("cudagraph_mode", "cudagraph_capture_sizes", "max_cudagraph_capture_size")
_ENGINES = "data_parallel_size"
_ADDITIONAL = "additional_config"
_SYNONYMS = {"half": "float16", "float": "float32"}
ASCEND_BLOCK = 128  # tokens; the one block size of its attention kernels on A2 and A3


@dataclass(frozen=True, slots=True)
class FlagValue:
    """A value in force, and who says so."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class FlagPrediction:
    """What was told of an engine before its start.

    `told` are the values by flag, `read` the asked ones as the engine's parser read them (4k is
    4000), `found` what its interpreter has, `said` the lines that its configuration code logged.
    """

    told: Mapping[str, FlagValue]
    read: Mapping[str, Any]
    found: InstalledEngine
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FlagChange:
    """A flag that became something else than was asked, or than was expected before the start.

    `asked` is None where it was left to the engine, `effective` None where it has no effect;
    `before` is what was expected before the start, None where that is the same.
    """

    flag: str
    asked: Any
    effective: Any
    source: str
    why: str = ""
    before: Any = None

    @property
    def line(self) -> str:
        """All of it in one line."""
        asked = "" if self.asked is None else f" {_shown(self.asked)} was asked,"
        before = "" if self.before is None else f" {_shown(self.before)} expected,"
        now = "it has no effect" if self.effective is None else f"{_shown(self.effective)} is in force"
        return f"{self.flag}:{asked}{before} {now}" + (f": {self.why}" if self.why else "")


@dataclass(frozen=True, slots=True)
class EngineConfiguration:
    """What an engine runs with: values and sources by flag, what is not as asked, and what was told before the start.

    `asked` are the flags by their one name, as `flat` has them. `resolution` has `by`, who told,
    `reason`, why it was only the rules, and `effective`, the values.
    """

    asked: Mapping[str, Any] = field(default_factory=dict)
    effective: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    changed: tuple[FlagChange, ...] = ()
    resolution: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as run.json has it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A line for each flag that is not as asked or not as expected; what was left to the engine has none."""
        rows = [row for row in self.changed if not is_left_to_engine(row.asked) or row.before is not None]
        return [row.line for row in rows]


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """A flag that an engine is known to rewrite: the value it becomes from the flags asked, None where it stands."""

    flag: str
    becomes: Callable[[Mapping[str, Any]], Any]


def _ascend_block(asked: Mapping[str, Any]) -> int | None:
    """vllm-ascend's refresh_block_size: 128 unless prefix caching and chunked prefill are both off."""
    kept = asked.get("enable_prefix_caching") is False and asked.get("enable_chunked_prefill") is False
    return None if kept and asked.get("block_size") else ASCEND_BLOCK


RULES: Mapping[str, tuple[RewriteRule, ...]] = {"vllm-ascend": (RewriteRule("block_size", _ascend_block),)}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def flatten_flags(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Flags by their one name, the keys of compilation_config and additional_config each on its own."""
    found: dict[str, Any] = {}
    for spelled, value in asked.items():
        head, _, key = canonical(spelled).partition(".")
        off = head.removeprefix("no_") if head.startswith("no_") and value is True else None
        given = {key: value} if key else _keys(head, value)
        if given is None:
            found[off or head] = False if off else value
        else:
            found |= {_key_name(head, name): one for name, one in given.items()}
    return found


def _keys(head: str, value: Any) -> Mapping[str, Any] | None:
    """The keys of a flag that is a mapping, or JSON of one; None of any other."""
    if head not in ("compilation_config", _ADDITIONAL):
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, Mapping) else None


def _key_name(head: str, key: str) -> str:
    return key if head == "compilation_config" and key in _GRAPH_FLAGS else f"{head}.{key}"


def predict_by_rules(kind: str, asked: Mapping[str, Any], found: InstalledEngine) -> FlagPrediction:
    """What flags become by the stated rules; where there is none, what was asked."""
    flags = flatten_flags(asked)
    ruled = {rule.flag: rule.becomes(flags) for rule in RULES.get(kind, ())}
    told = {name: FlagValue(value, REQUESTED) for name, value in flags.items() if value is not None}
    told |= {name: FlagValue(value, RULE) for name, value in ruled.items() if value is not None}
    return FlagPrediction(_without_unread(told, found), flags, found)


def predict_by_code(
    asked: Mapping[str, Any], answer: ConfigCheck, found: InstalledEngine, source: str = ENGINE
) -> FlagPrediction:
    """What flags become by an engine's configuration code: its values, and what its parser read of the others."""
    flags, values = flatten_flags(asked), answer.values or {}
    read = {**flags, **{name: value for name, value in (answer.parsed or {}).items() if name in flags}}
    told = {name: FlagValue(value, source) for name, value in {**read, **values}.items() if value is not None}
    return FlagPrediction(_without_unread(told, found), read, found, answer.said)


def _without_unread(told: Mapping[str, FlagValue], found: InstalledEngine) -> dict[str, FlagValue]:
    """All but the keys of additional_config that nobody reads."""
    return {name: one for name, one in told.items() if _is_read(name, found)}


def _is_read(name: str, found: InstalledEngine) -> bool:
    head, _, key = name.partition(".")
    return head != _ADDITIONAL or not found.additional_keys or key.partition(".")[0] in found.additional_keys


def confirm(before: Mapping[str, FlagValue], facts: BootFacts, cache: Mapping[str, Any]) -> dict[str, FlagValue]:
    """What is in force once an engine has started: its log over what was told before, and /metrics over both.

    `cache` are the labels of vllm:cache_config_info.
    """
    by_log = {name: FlagValue(value, LOG) for name, value in _from_log(facts) if value is not None}
    by_metrics = {name: FlagValue(value, METRICS) for name, value in _from_cache(cache)}
    now = {**before, **by_log, **by_metrics}
    expected = before.get(_ENGINES)
    if expected is not None and isinstance(expected.value, int) and expected.value > now[_ENGINES].value:
        now[_ENGINES] = expected  # those of other machines speak in logs and counters of their own
    return now


def _from_cache(cache: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for label, name in _CACHE_NAMES.items():
        if cache.get(label) is not None:
            yield name, cache[label]


def _from_log(facts: BootFacts) -> Iterator[tuple[str, Any]]:
    for name, value in (facts.config or {}).items():
        yield _CONFIG_NAMES.get(name, name), value
    yield from (
        ("block_size", facts.block_size_forced),
        ("max_model_len", facts.max_model_len),
        ("max_num_batched_tokens", facts.max_num_batched_tokens),
        ("kv_cache_size_tokens", facts.kv_cache_tokens),
        ("num_gpu_blocks", facts.blocks),
        ("data_parallel_size", facts.cores if (facts.cores or 0) > 1 else None),
        ("version", facts.version),
        ("plugin", facts.plugin),
    )


def values_of(told: Mapping[str, FlagValue]) -> dict[str, Any]:
    """The values alone."""
    return {name: one.value for name, one in told.items()}


def flag_changes(
    asked: Mapping[str, Any], told: Mapping[str, FlagValue], basis: FlagPrediction
) -> tuple[FlagChange, ...]:
    """The flags that are in force otherwise than was asked, or than `basis` expected, by name."""
    flags = flatten_flags(asked)
    rows = (_change(name, flags.get(name), told.get(name), basis) for name in sorted({*flags, *basis.told}))
    return tuple(row for row in rows if row is not None)


def _change(name: str, asked: Any, now: FlagValue | None, basis: FlagPrediction) -> FlagChange | None:
    if now is None:
        unread = asked is not None and not _is_read(name, basis.found)
        return FlagChange(name, asked, None, RULE, change_reason(name, asked, None, basis.found)) if unread else None
    expected = basis.told.get(name)
    moved = expected is not None and not same_value(expected.value, now.value)
    # What a parser makes of a switch is held against what was asked; of other values it knows more spellings.
    meant = asked if isinstance(asked, bool) else basis.read.get(name, asked)
    if not moved and (asked is None or same_value(meant, now.value)):
        return None
    reason = change_reason(name, asked, now.value, basis.found, basis.said)
    return FlagChange(name, asked, now.value, now.source, reason, expected.value if moved and expected else None)


def same_value(one: Any, other: Any) -> bool:
    """Whether `other` is what `one` means, however they are spelled; of a mapping, as far as its keys go."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(key in other and same_value(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return sorted(map(str, one)) == sorted(map(str, other))
    return one == other or _spelled(one) == _spelled(other)


def _spelled(value: Any) -> str:
    for number in () if isinstance(value, bool) else (float, whole_number):
        with contextlib.suppress(TypeError, ValueError):
            return f"{float(number(value)):.12g}"
    text = str(value).strip().lower().removeprefix("torch.")
    return _SYNONYMS.get(text, text)
