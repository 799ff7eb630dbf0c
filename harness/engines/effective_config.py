"""The values that an engine's flags really have: predicted by its code or by rules, confirmed by its log and /metrics.

Why a flag differs from what was requested stands in the catalogue where the rewriting is known; else the engine's own
log line about the flag is the reason, and without one there is none.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.engines.engine_log import BootFacts
from harness.engines.interpreter_query import ConfigCheck, InstalledEngine
from harness.errors import nearest
from harness.messages import Message, message, plain
from harness.simulator.engine_config import canonical, whole_number

REQUESTED, RULE, ENGINE, SIMULATOR, LOG, METRICS = (
    "as requested",
    "rule",
    "config code",
    "simulator",
    "log",
    "metrics",
)
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
# What vLLM is known to rewrite on any platform, by the code of the reason; the last are of platforms without the
# feature. Where the reason depends on the values, `change_reason` chooses.
_KNOWN: Mapping[str, str] = {
    "max_cudagraph_capture_size": "engines.why_capture_size",
    "async_scheduling": "engines.why_async_scheduling",
    "enable_chunked_prefill": "engines.why_chunked_prefill",
    "enable_prefix_caching": "engines.why_prefix_caching",
    "kv_cache_memory_bytes": "engines.why_kv_cache_bytes",
}
_KNOWN_ON_ASCEND: Mapping[str, str] = {
    "block_size": "engines.why_ascend_block_size",
    "max_num_batched_tokens": "engines.why_ascend_batched_tokens",
    "max_num_partial_prefills": "engines.why_ascend_partial_prefills",
    "disable_cascade_attn": "engines.why_ascend_cascade",
    "additional_config.enable_shared_expert_dp": "engines.why_ascend_shared_expert",
    "enable_dbo": "engines.why_ascend_dbo",
}


@dataclass(frozen=True, slots=True)
class FlagValue:
    """A value in force, and its source: one of REQUESTED, RULE, ENGINE, SIMULATOR, LOG, METRICS."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class FlagPrediction:
    """What is known of an engine's flags before its start.

    `values` by flag, `parsed` the requested ones as the engine's parser read them (4k is 4000), `installed` what its
    interpreter has, `log_lines` what its configuration code logged.
    """

    values: Mapping[str, FlagValue]
    parsed: Mapping[str, Any]
    installed: InstalledEngine
    log_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FlagChange:
    """A flag that became something else than was requested, or than was expected before the start.

    `requested` is None where it was left to the engine, `effective` None where it has no effect; `expected` is what
    was predicted before the start, None where that is the same; `why` is None where no reason is known.
    """

    flag: str
    requested: Any
    effective: Any
    source: str
    why: Message | None = None
    expected: Any = None

    @property
    def message(self) -> Message:
        """All of it in one line."""
        parts = [
            message(code, value=_shown(value))
            for code, value in (("engines.requested", self.requested), ("engines.expected", self.expected))
            if value is not None
        ]
        parts += [
            message("engines.no_effect")
            if self.effective is None
            else message("engines.effective", value=_shown(self.effective))
        ]
        if self.why is None:
            return message("engines.flag_change", flag=self.flag, parts=parts)
        return message("engines.flag_change_why", flag=self.flag, parts=parts, why=self.why)

    def as_dict(self) -> dict[str, Any]:
        """As run.json has it; `why` is English, `reason` the same as a message."""
        return {
            "flag": self.flag,
            "asked": self.requested,
            "effective": self.effective,
            "source": self.source,
            "why": "" if self.why is None else str(self.why),
            "reason": None if self.why is None else self.why.as_dict(),
            "before": self.expected,
        }


@dataclass(frozen=True, slots=True)
class EngineConfiguration:
    """What an engine runs with: values and sources by flag, what differs from the request, and the prediction.

    `requested` are the flags by their one name, as `flatten_flags` has them. `resolution` has `by`, what predicted,
    `reason`, why it was only the rules, and `effective`, the values.
    """

    requested: Mapping[str, Any] = field(default_factory=dict)
    effective: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    changed: tuple[FlagChange, ...] = ()
    resolution: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As run.json has it."""
        return {
            "asked": dict(self.requested),
            "effective": dict(self.effective),
            "sources": dict(self.sources),
            "changed": [row.as_dict() for row in self.changed],
            "resolution": dict(self.resolution),
        }

    def messages(self) -> list[Message]:
        """One for each flag that differs from the request or the prediction; none for what was left to the engine."""
        return [row.message for row in self.changed if not is_left_to_engine(row.requested) or row.expected is not None]


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """A flag that an engine is known to rewrite: its value from the flags requested, None where it stands."""

    flag: str
    becomes: Callable[[Mapping[str, Any]], Any]


def _ascend_block(requested: Mapping[str, Any]) -> int | None:
    """vllm-ascend's refresh_block_size: 128 unless prefix caching and chunked prefill are both off."""
    both_off = requested.get("enable_prefix_caching") is False and requested.get("enable_chunked_prefill") is False
    return None if both_off and requested.get("block_size") else ASCEND_BLOCK


RULES: Mapping[str, tuple[RewriteRule, ...]] = {"vllm-ascend": (RewriteRule("block_size", _ascend_block),)}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def is_left_to_engine(requested: Any) -> bool:
    """Whether a value leaves the choice to the engine."""
    return str(requested).lower() in ("auto", "none", "-1")


def change_reason(
    flag: str, requested: Any, effective: Any, installed: InstalledEngine, log_lines: Iterable[str] = ()
) -> Message | None:
    """Why a flag was rewritten, None where that is not known. `log_lines` are of the engine's log."""
    if flag.startswith(f"{_ADDITIONAL}.") and effective is None:
        return _unread_reason(flag.removeprefix(f"{_ADDITIONAL}."), installed)
    if (code := _known_reason(flag, requested, effective, installed)) is not None:
        return message(code)
    if is_left_to_engine(requested):
        return message("engines.why_left_to_engine")
    return next((plain(line) for line in log_lines if _names_flag(flag, line)), None)


def _known_reason(flag: str, requested: Any, effective: Any, installed: InstalledEngine) -> str | None:
    if flag == "max_model_len":
        return "engines.why_length_auto" if is_left_to_engine(requested) else "engines.why_length"
    if flag == "cudagraph_capture_sizes":
        return "engines.why_capture_sizes" if effective else "engines.why_no_graphs"
    if flag == "cudagraph_mode":
        return "engines.why_no_graphs" if effective == "NONE" else "engines.why_graph_mode"
    return (_KNOWN_ON_ASCEND.get(flag) if installed.ascend else None) or _KNOWN.get(flag)


def _unread_reason(key: str, installed: InstalledEngine) -> Message:
    version = " ".join(filter(None, ["vllm-ascend", installed.versions.get("vllm-ascend")]))
    near = nearest(key, sorted(installed.additional_keys))
    if near is None:
        return message("engines.why_key_unread", version=version)
    return message("engines.why_key_unread_near", version=version, near=near)


def _names_flag(flag: str, line: str) -> bool:
    """Whether a line names the flag, in any spelling."""
    words = flag.rpartition(".")[2].removeprefix("enable_").split("_")
    return re.search(r"(?<![a-z])" + "[ _-]?".join(map(re.escape, words)) + r"(?![a-z])", line.lower()) is not None


def flatten_flags(requested: Mapping[str, Any]) -> dict[str, Any]:
    """Flags by their one name, the keys of compilation_config and additional_config each on its own."""
    flags: dict[str, Any] = {}
    for spelled, value in requested.items():
        head, _, key = canonical(spelled).partition(".")
        off = head.removeprefix("no_") if head.startswith("no_") and value is True else None
        keys = {key: value} if key else _keys(head, value)
        if keys is None:
            flags[off or head] = False if off else value
        else:
            flags |= {_key_name(head, key): item for key, item in keys.items()}
    return flags


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


def predict_by_rules(kind: str, requested: Mapping[str, Any], installed: InstalledEngine) -> FlagPrediction:
    """What flags become by the stated rules; where there is none, what was requested."""
    flags = flatten_flags(requested)
    ruled = {rule.flag: rule.becomes(flags) for rule in RULES.get(kind, ())}
    values = {name: FlagValue(value, REQUESTED) for name, value in flags.items() if value is not None}
    values |= {name: FlagValue(value, RULE) for name, value in ruled.items() if value is not None}
    return FlagPrediction(_without_unread(values, installed), flags, installed)


def predict_by_code(
    requested: Mapping[str, Any], check: ConfigCheck, installed: InstalledEngine, source: str = ENGINE
) -> FlagPrediction:
    """What flags become by an engine's configuration code: its values, and what its parser read of the others."""
    flags, effective = flatten_flags(requested), check.values or {}
    parsed = {**flags, **{name: value for name, value in (check.parsed or {}).items() if name in flags}}
    values = {name: FlagValue(value, source) for name, value in {**parsed, **effective}.items() if value is not None}
    return FlagPrediction(_without_unread(values, installed), parsed, installed, check.log_lines)


def _without_unread(values: Mapping[str, FlagValue], installed: InstalledEngine) -> dict[str, FlagValue]:
    """All but the keys of additional_config that nobody reads."""
    return {name: value for name, value in values.items() if _is_read(name, installed)}


def _is_read(name: str, installed: InstalledEngine) -> bool:
    head, _, key = name.partition(".")
    keys = installed.additional_keys
    return head != _ADDITIONAL or not keys or key.partition(".")[0] in keys


def confirm(predicted: Mapping[str, FlagValue], facts: BootFacts, cache: Mapping[str, Any]) -> dict[str, FlagValue]:
    """What is in force once an engine has started: its log over the prediction, and /metrics over both.

    `cache` are the labels of vllm:cache_config_info.
    """
    by_log = {name: FlagValue(value, LOG) for name, value in _from_log(facts) if value is not None}
    by_metrics = {name: FlagValue(value, METRICS) for name, value in _from_cache(cache)}
    values = {**predicted, **by_log, **by_metrics}
    expected = predicted.get(_ENGINES)
    if expected is not None and isinstance(expected.value, int) and expected.value > values[_ENGINES].value:
        values[_ENGINES] = expected  # those of other machines speak in logs and counters of their own
    return values


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


def values_of(flags: Mapping[str, FlagValue]) -> dict[str, Any]:
    """The values alone."""
    return {name: flag.value for name, flag in flags.items()}


def flag_changes(
    requested: Mapping[str, Any], values: Mapping[str, FlagValue], prediction: FlagPrediction
) -> tuple[FlagChange, ...]:
    """The flags whose value differs from the request or from the prediction, by name."""
    flags = flatten_flags(requested)
    names = sorted({*flags, *prediction.values})
    rows = (_change(name, flags.get(name), values.get(name), prediction) for name in names)
    return tuple(row for row in rows if row is not None)


def _change(name: str, requested: Any, value: FlagValue | None, prediction: FlagPrediction) -> FlagChange | None:
    installed = prediction.installed
    if value is None:
        unread = requested is not None and not _is_read(name, installed)
        reason = change_reason(name, requested, None, installed)
        return FlagChange(name, requested, None, RULE, reason) if unread else None
    expected = prediction.values.get(name)
    moved = expected is not None and not same_value(expected.value, value.value)
    # What a parser makes of a switch is compared with the request; of other values it knows more spellings.
    meant = requested if isinstance(requested, bool) else prediction.parsed.get(name, requested)
    if not moved and (requested is None or same_value(meant, value.value)):
        return None
    reason = change_reason(name, requested, value.value, installed, prediction.log_lines)
    before = expected.value if moved and expected else None
    return FlagChange(name, requested, value.value, value.source, reason, before)


def same_value(first: Any, other: Any) -> bool:
    """Whether `other` is what `one` means, however they are spelled; of a mapping, as far as its keys go."""
    first, other = _decoded(first, other), _decoded(other, first)
    if isinstance(first, Mapping) and isinstance(other, Mapping):
        return all(key in other and same_value(value, other[key]) for key, value in first.items())
    if isinstance(first, list | tuple) and isinstance(other, list | tuple):
        return sorted(map(str, first)) == sorted(map(str, other))
    return first == other or _normal_form(first) == _normal_form(other)


def _decoded(value: Any, beside: Any) -> Any:
    """A mapping that is written as JSON, where it is compared with a mapping."""
    if isinstance(value, str) and isinstance(beside, Mapping) and value.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def _normal_form(value: Any) -> str:
    for number in () if isinstance(value, bool) else (float, whole_number):
        with contextlib.suppress(TypeError, ValueError):
            return f"{float(number(value)):.12g}"
    text = str(value).strip().lower().removeprefix("torch.")
    return _SYNONYMS.get(text, text)
