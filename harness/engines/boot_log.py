"""What does an engine's log say of its start: what did it become?

Pure: lines come in, facts go out (why it failed is in failing.py). The wordings are those of vLLM 0.18 to 0.32 and of
vllm-ascend beside them: "GPU KV cache size" stood for every device before 0.30, the concurrency
in a line of its own before 0.28.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

_NUMBER = r"([\d,]+(?:\.\d+)?)"
PREFIX = re.compile(
    r"^(?:\([^()]*pid=\d+\)\s*)*"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?\s+\[?[\w./-]+:\d+\]\s?)?"
)


@dataclass(frozen=True, slots=True)
class BootFacts:
    """What an engine has said of itself so far; None where it has not. Memory in GiB, as it is logged.

    `device` is the word before "KV cache size", `plugin` the platform plug-in, `config` values of
    the line that shows the engine's configuration, as vLLM names them. `suggested_kv_bytes` is
    what vllm-ascend would give --kv-cache-memory within the requested memory. `cores` is how many
    data-parallel engine cores have spoken, None where the only one has no number.
    """

    version: str | None = None
    plugin: str | None = None
    device: str | None = None
    config: Mapping[str, Any] | None = None
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    block_size_forced: int | None = None
    weights_gib: float | None = None
    load_s: float | None = None
    available_kv_gib: float | None = None
    kv_cache_tokens: int | None = None
    max_concurrency: float | None = None
    blocks: int | None = None
    graphs_s: float | None = None
    graphs_gib: float | None = None
    init_s: float | None = None
    compilation_s: float | None = None
    free_gib: float | None = None
    total_gib: float | None = None
    requested_gib: float | None = None
    activation_gib: float | None = None
    non_torch_gib: float | None = None
    suggested_kv_bytes: int | None = None
    cores: int | None = None
    serves: bool = False


Reader = Callable[["re.Match[str]"], dict[str, Any]]


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _whole(name: str) -> Reader:
    return lambda match: {name: int(_number(match.group(1)))}


def _real(*names: str) -> Reader:
    return lambda match: {
        name: _number(text) for name, text in zip(names, match.groups(), strict=True) if text is not None
    }


def _cache(match: "re.Match[str]") -> dict[str, Any]:
    device, tokens, concurrency = match.groups()
    found: dict[str, Any] = {"device": device, "kv_cache_tokens": int(_number(tokens))}
    return found if concurrency is None else found | {"max_concurrency": _number(concurrency)}


def _engine(match: "re.Match[str]") -> dict[str, Any]:
    return {"version": match.group(1), "config": config_values(match.group(2))}


def _summary(match: "re.Match[str]") -> dict[str, Any]:
    names = ("free_gib", "total_gib", "requested_gib", "weights_gib", "activation_gib", "non_torch_gib")
    found: dict[str, Any] = {name: _number(match.group(name)) for name in names}
    graphs, suggested = match.group("graphs_gib"), match.group("suggested")
    found |= {} if graphs is None else {"graphs_gib": _number(graphs)}
    return found | ({} if suggested is None else {"suggested_kv_bytes": int(suggested)})


_SUMMARY = (
    r"Free memory on device \((?P<free_gib>[\d.]+)/(?P<total_gib>[\d.]+) GiB\) on startup\. Desired GPU memory "
    r"utilization is \([\d.]+, (?P<requested_gib>[\d.]+) GiB\)\. Actual usage(?: is)?:? (?P<weights_gib>[\d.]+) GiB "
    r"for weights?, (?P<activation_gib>[\d.]+) GiB for peak activation, (?P<non_torch_gib>-?[\d.]+) GiB for non-torch "
    r"memory(?:, and|,)? (?P<graphs_gib>[\d.]+) GiB for \w+ graph memory"
    r"(?:.*?--kv-cache-memory=(?P<suggested>\d+))?"
)
_FACTS: tuple[tuple["re.Pattern[str]", Reader], ...] = tuple(
    (re.compile(pattern), reader)
    for pattern, reader in (
        (r"Platform plugin (\w+) is activated", lambda match: {"plugin": match.group(1)}),
        (r"Initializing a V1 LLM engine \(v([^)\s]+)\) with config: (.*)", _engine),
        (r"Using max model len (\d+)", _whole("max_model_len")),
        (r"Auto-fit max_model_len: reduced from \d+ to (\d+)", _whole("max_model_len")),
        (r"hunked prefill is enabled with max_num_batched_tokens=(\d+)", _whole("max_num_batched_tokens")),
        (r"Block size is set to (\d+) if prefix cache or chunked prefill", _whole("block_size_forced")),
        (r"Loading model weights took ([\d.]+) GB", _real("weights_gib")),
        (r"Model loading took ([\d.]+) Gi?B(?: memory)? and ([\d.]+) seconds", _real("weights_gib", "load_s")),
        (r"Model runner load_model total time: ([\d.]+) seconds", _real("load_s")),
        (r"Available KV cache memory: (-?[\d.]+) GiB", _real("available_kv_gib")),
        (r"reserved ([\d.]+) GiB(?: memory)? for KV Cache as specified", _real("available_kv_gib")),
        (r"Explicitly set \(([\d.]+)/[\d.]+\) GiB for KV cache", _real("available_kv_gib")),
        (r"Auto set \(([\d.]+)/[\d.]+\) GiB for KV cache", _real("available_kv_gib")),
        (
            (
                rf"(\w+) KV cache size: {_NUMBER} tokens"
                rf"(?:, Maximum concurrency for [\d,]+ tokens per request: {_NUMBER}x)?"
            ),
            _cache,
        ),
        (rf"^Maximum concurrency for [\d,]+ tokens per request: {_NUMBER}x", _real("max_concurrency")),
        (r"# \w+ blocks: (\d+)", _whole("blocks")),
        (r"Overriding num_gpu_blocks=\d+ with num_gpu_blocks_override=(\d+)", _whole("blocks")),
        (r"initialization after num_gpu_blocks is: (\d+)", _whole("blocks")),
        (r"Graph capturing finished in ([\d.]+) secs, took (-?[\d.]+) Gi?B", _real("graphs_s", "graphs_gib")),
        (
            (
                r"init engine \(profile, create kv[ _]cache, warmup model\) took ([\d.]+) s(?:econds)?"
                r"(?: \(compilation: ([\d.]+) s\))?"
            ),
            _real("init_s", "compilation_s"),
        ),
        (_SUMMARY, _summary),
        (r"Application startup complete", lambda _match: {"serves": True}),
    )
)
# Values of the configuration line that are flags of the same meaning. Not data_parallel_size: each core of several
# prints a line of its own, in which it may stand for itself alone.
_SHOWN = (
    "max_seq_len",
    "dtype",
    "load_format",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "quantization",
    "enforce_eager",
    "kv_cache_dtype",
    "seed",
    "enable_prefix_caching",
    "enable_chunked_prefill",
    "chunked_prefill_enabled",
)
_PLAIN = {"True": True, "False": False, "None": None}


_CORE = re.compile(r"\(EngineCore_DP(\d+) pid=")
_NOTHING = BootFacts()


def message_of(line: str) -> str:
    """A log line without the process, level, time and place that stand before its message."""
    return PREFIX.sub("", line, count=1).rstrip()


def advance(facts: BootFacts, line: str) -> BootFacts:
    """The facts after one more line."""
    message = message_of(line)
    core = _CORE.match(line)
    if core is not None:
        facts = replace(facts, cores=max(facts.cores or 0, int(core.group(1)) + 1))
    for pattern, reader in _FACTS:
        match = pattern.search(message)
        if match is not None:
            facts = replace(facts, **reader(match))
    return facts


def boot_facts(lines: Iterable[str], known: BootFacts = _NOTHING) -> BootFacts:
    """The facts of a log, or of its next lines where others are known."""
    return reduce(advance, lines, known)


def config_values(text: str) -> dict[str, Any]:
    """Flags out of the text of the engine's configuration, `name=value, ...`; nested values are passed over."""
    found: dict[str, Any] = {}
    for name in _SHOWN:
        match = re.search(rf"(?:^|, ){name}=([^,(){{}}\[\]]+)(?:, |$)", text)
        if match is not None:
            found[name] = _plain(match.group(1).strip().strip("'").removeprefix("torch."))
    return found


def _plain(text: str) -> Any:
    return int(text) if text.isdigit() else _PLAIN.get(text, text)
