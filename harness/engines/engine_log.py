"""An engine's log: the facts of its start, and the line that says why it failed.

The wordings are those of vLLM 0.18 to 0.32 and of vllm-ascend beside them: before 0.30 it is "GPU KV cache size" on
every device, before 0.28 the concurrency has a line of its own. For a failure, the lines of the process that died come
before those of the processes that noticed it, and lines logged during shutdown never count.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from harness.messages import Message, message

_NUMBER = r"([\d,]+(?:\.\d+)?)"
PREFIX = re.compile(
    r"^(?:\([^()]*pid=\d+\)\s*)*"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?\s+\[?[\w./-]+:\d+\]\s?)?"
)


@dataclass(frozen=True, slots=True)
class BootFacts:
    """What an engine has logged so far; None where it has not. Memory in GiB, as it is logged.

    `device` is the word before "KV cache size", `plugin` the platform plug-in, `config` values of
    the line that shows the engine's configuration, as vLLM names them. `suggested_kv_bytes` is
    what vllm-ascend would give --kv-cache-memory within the requested memory. `cores` is how many
    data-parallel engine cores have logged, None where the only one has no number.
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
    facts: dict[str, Any] = {"device": device, "kv_cache_tokens": int(_number(tokens))}
    return facts if concurrency is None else facts | {"max_concurrency": _number(concurrency)}


def _engine(match: "re.Match[str]") -> dict[str, Any]:
    return {"version": match.group(1), "config": config_values(match.group(2))}


def _summary(match: "re.Match[str]") -> dict[str, Any]:
    names = ("free_gib", "total_gib", "requested_gib", "weights_gib", "activation_gib", "non_torch_gib")
    facts: dict[str, Any] = {name: _number(match.group(name)) for name in names}
    graphs, suggested = match.group("graphs_gib"), match.group("suggested")
    facts |= {} if graphs is None else {"graphs_gib": _number(graphs)}
    return facts | ({} if suggested is None else {"suggested_kv_bytes": int(suggested)})


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
    text = message_of(line)
    core = _CORE.match(line)
    if core is not None:
        facts = replace(facts, cores=max(facts.cores or 0, int(core.group(1)) + 1))
    for pattern, reader in _FACTS:
        match = pattern.search(text)
        if match is not None:
            facts = replace(facts, **reader(match))
    return facts


def boot_facts(lines: Iterable[str], known: BootFacts = _NOTHING) -> BootFacts:
    """The facts of a log, or of its next lines where others are known."""
    return reduce(advance, lines, known)


def config_values(text: str) -> dict[str, Any]:
    """Flags out of the text of the engine's configuration, `name=value, ...`; nested values are passed over."""
    values: dict[str, Any] = {}
    for name in _SHOWN:
        match = re.search(rf"(?:^|, ){name}=([^,(){{}}\[\]]+)(?:, |$)", text)
        if match is not None:
            values[name] = _plain(match.group(1).strip().strip("'").removeprefix("torch."))
    return values


def _plain(text: str) -> Any:
    return int(text) if text.isdigit() else _PLAIN.get(text, text)


FLAG, PORT, HCCL, CAPTURE, MEMORY = "flag", "port", "hccl", "capture", "out_of_memory"
DEVICE, MODEL, CONFIG, CRASH = "device", "model", "config", "crash"
MEANINGS: Mapping[str, str] = {  # by kind, the code of its message
    FLAG: "engines.failed_flag",
    PORT: "engines.failed_port",
    HCCL: "engines.failed_hccl",
    CAPTURE: "engines.failed_capture",
    MEMORY: "engines.failed_memory",
    DEVICE: "engines.failed_device",
    MODEL: "engines.failed_model",
    CONFIG: "engines.failed_config",
    CRASH: "engines.failed_crash",
}
# The most specific first: a line is decisive for the first kind in this order that has one.
_SIGNS: tuple[tuple[str, "re.Pattern[str]"], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (FLAG, r"error: (?:unrecognized arguments?|argument |ambiguous option|the following arguments)"),
        (
            HCCL,
            r"E[IJ]\d{4}\b|HCCL function error|\bERR02\d{3}\b|Get_Socket_Timeout|Communication_Error|hccl\w* .*fail",
        ),
        (PORT, r"\[Errno 98\]|[Aa]ddress already in use"),
        (CAPTURE, r"\b207008\b|EL0009|Insufficient_Stream_Resources|AclmdlRICapture|alloc sq cq fail"),
        (
            MEMORY,
            (
                r"No available memory for the cache blocks|To serve at least one request with the model's max seq len"
                r"|The model's max seq len \(\d+\) is larger than the maximum number of tokens"
                r"|Free memory on device .* is less than desired|Cannot auto-fit max_model_len|out of memory"
                r"|is less than requested memory for kv|OutOfMemoryError"
                r"|Cannot allocate memory|std::bad_alloc|MemoryError|not enough memory"
            ),
        ),
        (
            MODEL,
            (
                r"Repo id must be in the form|is not a local folder and is not a valid model identifier"
                r"|Invalid repository ID or local directory|LocalEntryNotFoundError|couldn't connect to .*huggingface"
                r"|does not appear to have a file named|Cannot find any model weights|RepositoryNotFoundError"
                r"|Can't load the configuration|No such file or directory: '[^']*\.(?:json|safetensors|bin|model)'"
                r"|Model architectures? .* (?:not supported|failed to be inspected)|Incorrect path_or_model_id"
                r"|OfflineModeIsEnabled|outgoing traffic has been disabled"
            ),
        ),
        (
            CONFIG,
            (
                r"^\s*(?:Value|Assertion) error, |No common block size|must be greater than or equal to max_num_seqs"
                r"|is smaller than max_model_len|is greater than the derived max_model_len|ACL graph is incompatible"
            ),
        ),
        (
            DEVICE,
            (
                r"lib\w+\.so[\w.]*: cannot open shared object|Failed to infer device type|health status is not OK"
                r"|does not match the installed version's device type|^(?:ImportError|ModuleNotFoundError): "
                r"|Error in memory profiling|\bERR\d{5}\b|error code is \d{6}\b"
            ),
        ),
    )
)
_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*(?P<name>[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Failure)): (?P<text>.+)"
)
_REFUSALS = ("ValueError", "AssertionError", "NotImplementedError", "TypeError", "KeyError")
# Lines that only say that another process has failed, the most telling first: they decide where nothing else does.
_SECOND_HAND = tuple(
    re.compile(pattern)
    for pattern in (
        r"died unexpectedly|died with exit code|terminated by signal",
        r"Worker failed with error|WorkerProc (?:initialization )?failed",
        r"Engine core initialization failed|EngineCore failed to start|Failed core proc",
        r"EngineDeadError|EngineCore (?:failed|encountered)",
    )
)
# What is said while a process goes away: it follows from the end and never decides.
_NOISE = re.compile(
    r"^nanobind: |^\s*- leaked |leaked \S+ objects|\bleaked (?:instances|types|functions|shared_memory|semaphore)"
    r"|resource_tracker|destroy_process_group|ProcessGroup\w+\.cpp|^Exception ignored in|^\s*warnings\.warn\("
    r"|CancelledError|\bcancelled\b|^\[rank\d+\]:\[W|KeyboardInterrupt|^Killed$|Shutting down|shutting down"
    r"|^(?:Application|Waiting for|Finished server)|^\(?Press CTRL"
)
_FATAL = re.compile(
    r"(?:WorkerProc|EngineCore) (?:hit an exception|failed to start)|EngineCore encountered a fatal error"
)
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class EngineFailure:
    """Why an engine failed: the kind, a key of MEANINGS, and the line of its log that decides (may be empty)."""

    kind: str
    line: str

    @property
    def message(self) -> Message:
        """Both in one line."""
        kind = message(MEANINGS[self.kind])
        return message("engines.failure", kind=kind, line=self.line) if self.line else kind


def failure_cause(lines: Iterable[str]) -> EngineFailure:
    """Why an engine that has ended did so, by the lines of its log.

    What follows the first sign of a fatal error counts first: before it, the log of a long service may hold errors
    of single requests.
    """
    every = list(_candidates(lines))
    direct = [row for row in every if not _is_second_hand(row.text)]
    fatal = [row for row in direct if row.fatal]
    return (
        _by_sign(fatal)
        or _by_sign(direct)
        or _by_exception(fatal)
        or _by_second_hand([row for row in every if row.serving], _SECOND_HAND[:1])
        or _by_exception(direct)
        or _by_second_hand(every, _SECOND_HAND)
        or _by_last_line(fatal)
        or _by_last_line(direct)
        or EngineFailure(CRASH, "")
    )


def is_error(line: str) -> bool:
    """Whether a line of a log is an exception's last one."""
    return _EXCEPTION.match(line) is not None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A message that may be decisive, and what came before: graph capture, a whole start, or something fatal."""

    text: str
    capturing: bool
    serving: bool
    fatal: bool


def _candidates(lines: Iterable[str]) -> Iterator[_Candidate]:
    cache_known = started = serving = fatal = is_source = False
    for line in lines:
        prefix = PREFIX.match(line)
        text = message_of(line)
        cache_known = cache_known or "KV cache size" in text
        serving = serving or "Application startup complete" in text
        started = started or serving or text.startswith("init engine (")
        fatal = fatal or _FATAL.search(text) is not None
        # A traceback shows the source below its place.
        quoted, is_source = is_source, text.lstrip().startswith('File "')
        if quoted and text.lstrip().startswith("raise "):
            continue
        level = None if prefix is None else prefix.group("level")
        if text.strip() and level not in ("DEBUG", "INFO", "WARNING") and not _is_noise(text):
            yield _Candidate(text, cache_known and not started, serving, fatal)


def _is_noise(text: str) -> bool:
    """Whether a line follows from the end; one that says who died is none, whatever else it says."""
    return _NOISE.search(text) is not None and _SECOND_HAND[0].search(text) is None


def _is_second_hand(text: str) -> bool:
    return any(sign.search(text) for sign in _SECOND_HAND)


def _by_sign(rows: Sequence[_Candidate]) -> EngineFailure | None:
    for kind, sign in _SIGNS:
        for row in rows:
            if sign.search(row.text):
                return EngineFailure(CAPTURE if kind == MEMORY and row.capturing else kind, _short(row.text))
    return None


def _by_exception(rows: Sequence[_Candidate]) -> EngineFailure | None:
    """The first exception in the log, as the later ones follow from it; None without one."""
    for match in filter(None, (_EXCEPTION.match(row.text) for row in rows)):
        return EngineFailure(CONFIG if match.group("name") in _REFUSALS else CRASH, _short(match.string))
    return None


def _by_second_hand(rows: Sequence[_Candidate], signs: Sequence[re.Pattern[str]]) -> EngineFailure | None:
    """The line of the survivors that says most of who died."""
    for sign in signs:
        for row in rows:
            if sign.search(row.text):
                return EngineFailure(CRASH, _short(row.text))
    return None


def _by_last_line(rows: Sequence[_Candidate]) -> EngineFailure | None:
    texts = [row.text for row in rows if not row.text.startswith((" ", "\t"))]
    return EngineFailure(CRASH, _short(texts[-1])) if texts else None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
