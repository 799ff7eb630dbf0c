"""How is an engine's interpreter asked about itself, and which of its answers are kept?

`probe.py` runs in it, as a process of its own. Answers lie in the user's cache folder, under a
key of all that they follow from.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import store
from harness.engines import probe
from harness.engines.process import output_of
from harness.errors import EngineError

VERSIONS_S = 60.0
FLAGS_S = 300.0  # importing vLLM takes 10 to 20 s, and far longer from a cold disk or on a busy machine
POINT_S = 1.0  # a set of flags takes some 20 ms, the first one of a model some seconds
_KEPT = 2000  # answers of a few kilobytes each
# Variables that the configuration code of vLLM, vllm-ascend and their libraries looks at.
_LOOKED_AT = ("VLLM_", "ASCEND_", "HF_", "CUDA_", "PYTORCH_", "HCCL_", "OMP_", "SOC_", "LD_LIBRARY_PATH", "PYTHONPATH")


@dataclass(frozen=True, slots=True)
class Answer:
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


async def versions(python: str, env: Mapping[str, str]) -> dict[str, Any]:
    """What the interpreter has installed, by `probe.versions`; {} where it does not tell.

    Raises:
        EngineError: where there is no such interpreter.
    """
    lines = await _ask(python, ["versions"], env, VERSIONS_S)
    return lines[-1] if lines else {}


async def flags_and_points(
    python: str, env: Mapping[str, str], points: Sequence[Sequence[str]], usage: str
) -> tuple[dict[str, Any], list[Answer]]:
    """What `probe.flags` finds, {} where it does not tell, and an answer for each set of flags, in one process.

    `usage` is what the engine is for: `probe.SERVER` or `probe.OFFLINE`.

    Raises:
        EngineError: where there is no such interpreter.
    """
    limit_s = FLAGS_S + POINT_S * len(points)
    lines = await _ask(python, ["resolve", usage], env, limit_s, json.dumps(points).encode() + b"\n")
    flags = lines[0] if lines else {}
    nothing = Answer(reason=f"its interpreter did not answer within {limit_s:g} s")
    answers = [answer_of(line) for line in lines[1:]]
    return flags, answers + [nothing] * (len(points) - len(answers))


def answer_of(line: Mapping[str, Any]) -> Answer:
    """An answer from the mapping that stands for it."""
    return Answer(**{**line, "said": tuple(line.get("said", ()))})


def line_of(answer: Answer) -> dict[str, Any]:
    """The mapping that stands for an answer."""
    return asdict(answer)


async def _ask(
    python: str, what: Sequence[str], env: Mapping[str, str], limit_s: float, line: bytes = b""
) -> list[dict[str, Any]]:
    """The lines that the probe prints; none where it fails or takes too long."""
    try:
        text = await output_of([python, str(probe.__file__), *what], env, limit_s, line)
    except OSError as fault:
        raise EngineError(
            f"engine.python {python}: cannot be run ({fault.strerror}); expected an interpreter"
        ) from None
    told = (line.removeprefix(probe.MARK) for line in text.splitlines() if line.startswith(probe.MARK))
    return [found for line in told if isinstance(found := json.loads(line), dict)]


def key_of(*parts: Any) -> str:
    """A key of everything that an answer follows from."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def surroundings(env: Mapping[str, str], model: str) -> list[Any]:
    """What a configuration follows from beside its flags and the installed code: variables, and the model's files."""
    inherited = {name: value for name, value in os.environ.items() if name.startswith(_LOOKED_AT)}
    return [{**inherited, **env}, _changed_ns(Path(model)), _changed_ns(Path(probe.__file__))]


def _changed_ns(path: Path) -> int:
    """When a file, or the configuration in a model's folder, was changed; 0 where there is none here."""
    files = [path] if path.is_file() else sorted(path.glob("*config*.json"))
    return max((file.stat().st_mtime_ns for file in files), default=0)


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "npu-harness" / "engines.json"


def kept() -> dict[str, Any]:
    """The answers that are kept, by key."""
    try:
        found = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep(new: Mapping[str, Any]) -> None:
    """Keep answers, the newest; where that cannot be written, the interpreter is asked again next time."""
    path, all_kept = _cache_file(), kept()
    if all(key in all_kept for key in new):
        return
    newest = list({**all_kept, **new}.items())[-_KEPT:]
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(path.parent, path.name, dict(newest))
