"""The simulated engine's configuration: what each flag of `vllm serve` becomes."""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from harness.errors import InputError
from harness.messages import message
from harness.simulator.chips import DEFAULT_CHIP, ChipSpec, chip_named
from harness.simulator.flag_names import OBJECTS, canonical, json_or_same, obeyed_flags
from harness.simulator.models import DEFAULT_MODEL, ModelShape, adapter_name, lora_modules, model_named, served_names
from harness.simulator.speculation import Speculation, mapping_of, speculation_from

ASCEND_BLOCK_SIZE = 128
BLOCK_SIZE_NOTE = "Block size is set to 128 if prefix cache or chunked prefill is enabled."
ASYNC_NOTE = "Async scheduling not supported with {}-based speculative decoding and will be disabled."
DEFAULT_VERSION = "0.32"
_KV_ROLES = ("kv_producer", "kv_consumer", "kv_both")
_CHOICES = {
    "cudagraph_mode": ("NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"),
    "scheduling_policy": ("fcfs", "priority"),
    "engine_version": (DEFAULT_VERSION, "0.33"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the simulated engine runs with: the effective values, under vLLM's names.

    `ignored` names the given flags that have no effect here, `notes` what was changed and why,
    in the engine's own words where it says so itself. `served_model_name` is what requests call
    the model: a name, or several of which answers bear the first.
    `max_model_len` 0 asks for as much as fits into memory. `cache_efficiency` and
    `attention_efficiency` are measured shares of the chip's bandwidth and arithmetic that attention
    reaches; 0: the built-in ones. `speculative_config` is JSON as vLLM takes it, and `acceptance_rates` say by position
    how many draft tokens are accepted, where the method's own are not wanted. `engine_version` is the
    version of vLLM whose scheduler's rules hold. `rank_slowdown` makes data-parallel ranks slow: a rank and its factor.
    With expert parallelism the busiest rank has `expert_imbalance` times the mean of tokens. `kv_transfer_config` is
    JSON; a device fetches KV caches at `kv_transfer_bandwidth` (GB/s; 0: by the chip) and `kv_transfer_latency` (s).
    """

    model: str = DEFAULT_MODEL
    served_model_name: str | tuple[str, ...] = ""
    chip: str = DEFAULT_CHIP
    block_size: int = ASCEND_BLOCK_SIZE
    max_num_seqs: int = 256
    max_num_active_seqs: int | None = None
    max_num_batched_tokens: int = 2048
    max_num_scheduled_tokens: int | None = None
    max_model_len: int = 32768
    gpu_memory_utilization: float = 0.92
    kv_cache_memory_bytes: int | None = None
    num_gpu_blocks_override: int | None = None
    tensor_parallel_size: int = 1
    dtype: str = "bfloat16"
    kv_cache_dtype: str = "auto"
    quantization: str = ""
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    enforce_eager: bool = False
    cudagraph_mode: str = "FULL_AND_PIECEWISE"
    cudagraph_capture_sizes: tuple[int, ...] = ()
    async_scheduling: bool = True
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0
    scheduling_policy: str = "fcfs"
    prefill_schedule_interval: int = 1
    engine_version: str = DEFAULT_VERSION
    enable_prompt_tokens_details: bool = False
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    lora_modules: tuple[str, ...] = ()
    enable_per_request_metrics: bool = False
    per_request_spec_decode_metrics: str = "none"
    reasoning_parser: str = ""
    seed: int = 0
    start_seconds: float = 0.0
    cache_efficiency: float = 0.0
    attention_efficiency: float = 0.0
    speculative_config: str = ""
    acceptance_rates: tuple[float, ...] = ()
    data_parallel_size: int = 1
    rank_slowdown: tuple[tuple[int, float], ...] = ()
    enable_expert_parallel: bool = False
    expert_imbalance: float = 1.0
    kv_transfer_config: str = ""
    kv_transfer_bandwidth: float = 0.0
    kv_transfer_latency: float = 0.002
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may call the model; answers bear the first."""
        given = self.served_model_name
        return ((given,) if isinstance(given, str) else given) if given else (self.model,)

    @property
    def name(self) -> str:
        """What answers and counters call the model."""
        return self.names[0]

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that requests may give in place of the model's."""
        return tuple(adapter_name(module) for module in self.lora_modules) if self.enable_lora else ()

    @property
    def shape(self) -> ModelShape:
        """The model's shape."""
        return model_named(self.model)

    @property
    def speculation(self) -> Speculation | None:
        """What drafts tokens, None where nothing does."""
        return speculation_from(self.speculative_config, self.acceptance_rates)

    @property
    def slowdowns(self) -> dict[int, float]:
        """How many times as long the steps of a rank take, of those that are slow."""
        return dict(self.rank_slowdown)

    @property
    def steps_together(self) -> bool:
        """Whether data-parallel ranks wait for each other in each step, as experts are spread over them."""
        return self.data_parallel_size > 1 and self.shape.experts > 0

    @property
    def kv_role(self) -> str:
        """What the engine does in a pair: kv_producer, kv_consumer or kv_both; empty where it is in none."""
        role = mapping_of(self.kv_transfer_config).get("kv_role", "") if self.kv_transfer_config else ""
        return str(role)

    @property
    def device(self) -> ChipSpec:
        """The chip."""
        return chip_named(self.chip)


def whole_number(value: Any) -> int:
    """A whole number, also as vLLM reads it: 32k is 32,000 and 32K is 32,768."""
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = str(value).strip()
    scale = {"k": 1000, "m": 1000**2, "g": 1000**3, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 0)
    return round(float(text[:-1]) * scale) if scale else int(text)


def _switch(value: Any) -> bool:
    text = str(value).lower()
    if value is None or text in ("true", "1", "yes", ""):
        return True
    if text in ("false", "0", "no"):
        return False
    raise ValueError


def _sizes(value: Any) -> tuple[int, ...]:
    items = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
    return tuple(sorted({whole_number(item) for item in items}))


def _numbers(value: Any) -> tuple[float, ...]:
    items = value if isinstance(value, list | tuple) else str(value).strip(" []").replace(",", " ").split()
    return tuple(float(item) for item in items)


def _slowdowns(value: Any) -> tuple[tuple[int, float], ...]:
    """Rank and factor of each: a factor for every rank, a mapping, JSON of either, or text such as 3:1.5."""
    given = json_or_same(value)
    if isinstance(given, str):
        given = dict(item.split(":") for item in given.replace(",", " ").split())
    items = enumerate(given) if isinstance(given, list | tuple) else dict(given).items()
    return tuple(sorted((whole_number(rank), float(factor)) for rank, factor in items))


def _json_object(value: Any) -> str:
    return json.dumps(mapping_of(value), sort_keys=True)


def _maximum(value: Any) -> int:
    return 0 if str(value).lower() in ("auto", "-1") else whole_number(value)


_READERS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "int": (whole_number, "simulator.kind_whole"),
    "int | None": (whole_number, "simulator.kind_whole"),
    "float": (float, "simulator.kind_number"),
    "bool": (_switch, "simulator.kind_switch"),
    "str": (str, "simulator.kind_text"),
    "tuple": (_sizes, "simulator.kind_list"),
}
_KINDS = {
    field.name: getattr(field.type, "__name__", str(field.type))
    for field in fields(Settings)
    if field.name not in ("ignored", "notes")
}
_SPEC_FLAGS = {"spec_method": "method", "spec_model": "model", "spec_tokens": "num_speculative_tokens"}
OBEYED = frozenset(_KINDS) | {"compilation_config", "max_cudagraph_capture_size"} | frozenset(_SPEC_FLAGS)
_OWN_READERS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "served_model_name": (served_names, "simulator.kind_names"),
    "max_model_len": (_maximum, "simulator.kind_whole_or_auto"),
    "speculative_config": (_json_object, "simulator.kind_object"),
    "acceptance_rates": (_numbers, "simulator.kind_numbers"),
    "rank_slowdown": (_slowdowns, "simulator.kind_slowdowns"),
    "kv_transfer_config": (_json_object, "simulator.kind_object"),
    "lora_modules": (lora_modules, "simulator.kind_modules"),
}
_POSITIVE = (
    "block_size", "max_num_seqs", "max_num_active_seqs", "max_num_batched_tokens",
    "max_num_scheduled_tokens", "prefill_schedule_interval", "max_loras", "max_lora_rank",
    "tensor_parallel_size", "data_parallel_size",
    "num_gpu_blocks_override", "kv_cache_memory_bytes",
)  # fmt: skip


def settings_from_flags(flags: Mapping[str, Any]) -> Settings:
    """Effective settings of flags as for `vllm serve`, snake or kebab case, values as text or typed.

    Beside vLLM's flags there are `chip` (such as 910B3, A3, 310P or cpu-2core; `num-gpu-blocks-override`
    bypasses its memory) and `start_seconds` (how long the engine takes to start; 0 is at once).
    `compilation_config` may be a mapping or JSON; of it the graph mode and sizes count.

    Raises:
        InputError: an unknown flag, with the nearest name, or a value of the wrong kind.
    """
    values, ignored = obeyed_flags(flags, OBEYED)
    values = _whole_objects(values)
    largest = values.pop("max_cudagraph_capture_size", None)
    values = {**_graph_flags(values.pop("compilation_config", None)), **values}
    typed = {name: _read(name, value) for name, value in values.items() if not _is_unset(value, name)}
    _check_ranges(typed)
    listed, ranks = json_or_same(values.get("rank_slowdown")), typed.get("data_parallel_size", 1)
    if isinstance(listed, list | tuple) and len(listed) < ranks:
        raise InputError(message("simulator.too_few_slowdowns", given=len(listed), ranks=ranks))
    return _resolved(typed, ignored, _read("max_num_seqs", largest) if largest is not None else None)


def _is_unset(value: Any, name: str) -> bool:
    return value is None and _KINDS[name] != "bool"


def _read(name: str, value: Any) -> Any:
    reader, expected = _OWN_READERS.get(name) or _READERS[_KINDS[name]]
    try:
        return reader(value)
    except (TypeError, ValueError):
        raise InputError(
            message("simulator.flag_kind", flag=name, value=repr(value), expected=message(expected))
        ) from None


def _whole_objects(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the keys that were given one by one, and --spec-method and its like, in their objects."""
    whole = {name: value for name, value in values.items() if "." not in name and name not in _SPEC_FLAGS}
    for name, value in values.items():
        place = name if name not in _SPEC_FLAGS else f"speculative_config.{_SPEC_FLAGS[name]}"
        flag, _, key = place.partition(".")
        if key and value is not None:
            given = whole.get(flag)
            whole[flag] = {**({} if given is None else mapping_of(given)), key: _literal(value)}
    return whole


def _literal(value: Any) -> Any:
    """A value of an object from its text: a number where it is one."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def _graph_flags(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    try:
        config = json.loads(value) if isinstance(value, str) else dict(value)
    except (TypeError, ValueError):
        raise InputError(
            message(
                "simulator.flag_kind",
                flag="compilation_config",
                value=repr(value),
                expected=message("simulator.kind_object"),
            )
        ) from None
    return {key: config[key] for key in ("cudagraph_mode", "cudagraph_capture_sizes") if config.get(key) is not None}


def _check_ranges(typed: Mapping[str, Any]) -> None:
    for name in _POSITIVE:
        if typed.get(name, 1) < 1:
            raise InputError(message("simulator.flag_too_small", flag=name, value=typed[name]))
    share = typed.get("gpu_memory_utilization", 1.0)
    if not 0 < share <= 1:
        raise InputError(message("simulator.memory_share_range", share=share))
    for name, choices in _CHOICES.items():
        value = typed.get(name, choices[0])
        if value not in choices and str(value).upper() not in choices:
            raise InputError(message("simulator.not_a_choice", flag=name, value=value, choices=choices))


def _check_parallel(settings: Settings) -> None:
    last, imbalance, role = settings.data_parallel_size - 1, settings.expert_imbalance, settings.kv_role
    if any(not 0 <= rank <= last or factor <= 0 for rank, factor in settings.rank_slowdown):
        raise InputError(message("simulator.rank_slowdown", last=last, value=str(settings.slowdowns)))
    if imbalance < 1:
        raise InputError(message("simulator.expert_imbalance", value=imbalance))
    if settings.kv_transfer_config and role not in _KV_ROLES:
        raise InputError(message("simulator.kv_role", role=role, roles=_KV_ROLES))


def _resolved(typed: dict[str, Any], ignored: tuple[str, ...], largest_graph: int | None) -> Settings:
    settings = Settings(ignored=ignored, **typed)
    _check_parallel(settings)
    shape, chip = settings.shape, settings.device
    if "max_model_len" not in typed:
        settings = replace(settings, max_model_len=shape.max_position)
    settings = _batch_defaults(settings, typed)
    if chip.is_ascend:
        settings = _ascend_block_size(settings)
    mode = "NONE" if settings.enforce_eager or not chip.is_ascend else settings.cudagraph_mode.upper()
    settings, width = _speculation_effects(settings, typed)
    most = largest_graph or min(settings.max_num_seqs * width, 512)
    sizes = settings.cudagraph_capture_sizes or capture_sizes(most)
    return replace(settings, cudagraph_mode=mode, cudagraph_capture_sizes=() if mode == "NONE" else sizes)


def _speculation_effects(settings: Settings, typed: Mapping[str, Any]) -> tuple[Settings, int]:
    """The settings with what speculation changes, and the tokens of a decode.

    Raises:
        InputError: the speculation is none that the simulator knows.
    """
    speculation = settings.speculation
    if speculation is None:
        return settings, 1
    if not speculation.has_layer and "async_scheduling" not in typed:
        notes = (*settings.notes, ASYNC_NOTE.format(speculation.method))
        settings = replace(settings, async_scheduling=False, notes=notes)
    return settings, 1 + speculation.tokens


def _batch_defaults(settings: Settings, typed: Mapping[str, Any]) -> Settings:
    """Defaults of vLLM where the device memory cannot be asked: 2048 tokens and 256 requests a step."""
    tokens, requests = settings.max_num_batched_tokens, settings.max_num_seqs
    if "max_num_batched_tokens" not in typed:
        length = settings.max_model_len or settings.shape.max_position
        tokens = tokens if settings.enable_chunked_prefill else max(tokens, length)
        tokens = min(tokens, requests * length)
    if "max_num_seqs" not in typed:
        requests = min(requests, tokens)
    return replace(settings, max_num_batched_tokens=tokens, max_num_seqs=requests)


def _ascend_block_size(settings: Settings) -> Settings:
    if settings.block_size == ASCEND_BLOCK_SIZE:
        return settings
    if settings.enable_prefix_caching or settings.enable_chunked_prefill:
        return replace(settings, block_size=ASCEND_BLOCK_SIZE, notes=(*settings.notes, BLOCK_SIZE_NOTE))
    return settings


def capture_sizes(largest: int) -> tuple[int, ...]:
    """Batch sizes with a captured graph: 1, 2, 4, then in steps of 8 and from 256 on of 16."""
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
    return tuple(size for size in sizes if size <= largest)


def effective(settings: Settings) -> dict[str, Any]:
    """The settings as a flat mapping for run.json: what the flags became."""
    skipped = ("ignored", "notes", "start_seconds", "cudagraph_capture_sizes", "rank_slowdown")
    values = {name: getattr(settings, name) for name in _KINDS if name not in skipped}
    return values | {name: mapping_of(values[name]) for name in OBJECTS if values[name]}


__all__ = ["OBEYED", "Settings", "canonical", "capture_sizes", "effective", "settings_from_flags", "whole_number"]
