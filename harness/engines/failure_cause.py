"""Why did an engine fail: which line of its log decides?

Pure: lines come in, one failure goes out. What the survivors of a death say comes after what the dead
process said itself, and what is said while processes go away never counts.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.engines.boot_log import PREFIX, message_of

FLAG, PORT, HCCL, CAPTURE, MEMORY = "flag", "port", "hccl", "capture", "out_of_memory"
DEVICE, MODEL, CONFIG, CRASH = "device", "model", "config", "crash"
MEANINGS: Mapping[str, str] = {
    FLAG: "a flag was refused",
    PORT: "its port is in use",
    HCCL: "HCCL, the link between devices, failed",
    CAPTURE: "out of memory or streams while graphs were captured",
    MEMORY: "out of memory",
    DEVICE: "the device or its software is not usable",
    MODEL: "the model cannot be loaded",
    CONFIG: "the configuration was refused",
    CRASH: "it crashed",
}
# The gravest knowledge first: a line is decisive for the first kind in this order that has one.
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
class Failure:
    """Why an engine failed: the kind, one of MEANINGS, and the line of its log that decides (may be empty)."""

    kind: str
    line: str

    @property
    def words(self) -> str:
        """Both in one line."""
        return f"{MEANINGS[self.kind]}: {self.line}" if self.line else MEANINGS[self.kind]


def failure_of(lines: Iterable[str]) -> Failure:
    """Why an engine that has ended did so, by the lines of its log.

    What stands behind the first word of a fatal error counts first: before it, the log of a long
    service may hold errors of single requests.
    """
    every = list(_told(lines))
    told = [one for one in every if not _is_second_hand(one.text)]
    fatal = [one for one in told if one.fatal]
    return (
        _by_sign(fatal)
        or _by_sign(told)
        or _by_exception(fatal)
        or _by_second_hand([one for one in every if one.serving], _SECOND_HAND[:1])
        or _by_exception(told)
        or _by_second_hand(every, _SECOND_HAND)
        or _by_last_word(fatal)
        or _by_last_word(told)
        or Failure(CRASH, "")
    )


@dataclass(frozen=True, slots=True)
class _Told:
    """A message that may be decisive, and what came before: graph capture, a whole start, or something fatal."""

    text: str
    capturing: bool
    serving: bool
    fatal: bool


def _by_sign(told: list[_Told]) -> Failure | None:
    for kind, sign in _SIGNS:
        for one in told:
            if sign.search(one.text):
                return Failure(CAPTURE if kind == MEMORY and one.capturing else kind, _short(one.text))
    return None


def _told(lines: Iterable[str]) -> Iterator[_Told]:
    cache_known = started = serving = fatal = is_source = False
    for line in lines:
        prefix = PREFIX.match(line)
        text = message_of(line)
        cache_known = cache_known or "KV cache size" in text
        serving = serving or "Application startup complete" in text
        started = started or serving or text.startswith("init engine (")
        fatal = fatal or _FATAL.search(text) is not None
        quoted, is_source = (
            is_source,
            text.lstrip().startswith('File "'),
        )  # a traceback shows the source below its place
        if quoted and text.lstrip().startswith("raise "):
            continue
        level = None if prefix is None else prefix.group("level")
        if text.strip() and level not in ("DEBUG", "INFO", "WARNING") and not _is_noise(text):
            yield _Told(text, cache_known and not started, serving, fatal)


def _is_noise(text: str) -> bool:
    """Whether a line follows from the end; one that says who died is none, whatever else it says."""
    return _NOISE.search(text) is not None and _SECOND_HAND[0].search(text) is None


def _is_second_hand(text: str) -> bool:
    return any(sign.search(text) for sign in _SECOND_HAND)


def _by_exception(told: list[_Told]) -> Failure | None:
    """The first exception in the log, as the later ones follow from it; None without one."""
    for match in filter(None, (_EXCEPTION.match(one.text) for one in told)):
        return Failure(CONFIG if match.group("name") in _REFUSALS else CRASH, _short(match.string))
    return None


def _by_second_hand(told: list[_Told], signs: Sequence[re.Pattern[str]]) -> Failure | None:
    """The line of the survivors that says most of who died."""
    for sign in signs:
        for one in told:
            if sign.search(one.text):
                return Failure(CRASH, _short(one.text))
    return None


def _by_last_word(told: list[_Told]) -> Failure | None:
    said = [one.text for one in told if not one.text.startswith((" ", "\t"))]
    return Failure(CRASH, _short(said[-1])) if said else None


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"
