"""Export of the winner: its exact command and environment, or those of each process, as text, script and for docker."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engines.interpreter_probe import flag_words
from harness.messages import message
from harness.safety.redaction import redact
from harness.scenario.deployment import PROXY, Process
from harness.scenario.engine import DEPLOYMENT, Engine
from harness.scenario.error_messages import is_secret
from harness.scenario.processes import SIMULATOR, engine_of, processes_of

IMAGE = "quay.io/ascend/vllm-ascend"
_DRIVER = (
    "/usr/local/dcmi:/usr/local/dcmi",
    "/usr/local/bin/npu-smi:/usr/local/bin/npu-smi",
    "/usr/local/Ascend/driver/lib64:/usr/local/Ascend/driver/lib64",
    "/usr/local/Ascend/driver/version.info:/usr/local/Ascend/driver/version.info",
    "/etc/ascend_install.info:/etc/ascend_install.info",
)
_MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
WITH_IMAGE = "vllm-ascend"  # the one kind of engine that the image below holds
_ONLY_OURS = ("chip", "start_seconds")  # flags of the simulated engine that vLLM has not


def serve_command(engine: Engine, *, bare: bool = False) -> list[str]:
    """The server with the flags of an engine, word by word: by the engine's own interpreter where the study names one.

    `bare` is `vllm serve` in any case, as within an image.
    """
    args = {name: value for name, value in engine.args.items() if name not in _ONLY_OURS}
    begin = [engine.python, "-m", "vllm.entrypoints.cli.main"] if engine.python and not bare else ["vllm"]
    return [*begin, "serve", *([engine.model] if engine.model else []), *flag_words(args)]


def environment_of(engine: Engine) -> dict[str, str]:
    """The engine's own variables, without secrets."""
    return {name: value for name, value in engine.env.items() if not is_secret(name)}


def command_text(engine: Engine, remarks: Sequence[str] = ()) -> str:
    """The command as one line, with its environment before it."""
    env = [f"{name}={shlex.quote(value)}" for name, value in environment_of(engine).items()]
    line = " ".join([*env, shlex.join(serve_command(engine))])
    return "\n".join([*(f"# {remark}" for remark in remarks), line]) + "\n"


def shell_script(engine: Engine, remarks: Sequence[str] = ()) -> str:
    """A shell script that serves; arguments to it are added to the command."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment_of(engine).items()]
    words = _folded(serve_command(engine))
    needs = [] if engine.python else [str(message("tuning.vllm_on_path"))]
    head = ["#!/bin/sh", *(f"# {remark}" for remark in (*remarks, *needs)), "set -e"]
    return "\n".join([*head, *exports, f'exec {words} "$@"']) + "\n"


def docker_command(engine: Engine, devices: int, remarks: Sequence[str] = ()) -> str:
    """A docker line for vllm-ascend's own image, with the device files that it needs."""
    numbers = engine.devices or tuple(range(devices))
    options = ["--rm", "--network=host", "--shm-size=1g"]
    options += [f"--device=/dev/davinci{number}" for number in numbers]
    options += [f"--device={path}" for path in _MANAGERS]
    options += [f"--volume={path}:ro" for path in _DRIVER]
    options += [f"--volume={_cache(engine)}"]
    options += [f"--env={name}={value}" for name, value in environment_of(engine).items()]
    image = _expandable(f"{IMAGE}:${{VLLM_ASCEND_VERSION:?say which}}")
    words = ["docker run", *map(_expandable, options), image, _folded(serve_command(engine, bare=True))]
    lines = [f"# {remark}" for remark in remarks]
    return "\n".join([*lines, " \\\n  ".join(words)]) + "\n"


def _cache(engine: Engine) -> str:
    """The model's own folder where it is one, else the cache of models."""
    if engine.model is not None and Path(engine.model).is_absolute():
        return f"{engine.model}:{engine.model}:ro"
    return "${HOME}/.cache:/root/.cache"


def _expandable(word: str) -> str:
    """A word as the shell needs it; what it is to expand stands in double quotes."""
    return f'"{word}"' if "${" in word else shlex.quote(word)


def _folded(command: Sequence[str]) -> str:
    """A command over several lines, a flag a line."""
    lines: list[str] = []
    for word in command:
        if word.startswith("--") or not lines:
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines)


_FIRST_PORT, _PROXY_PORT = 8100, 9000


@dataclass(frozen=True, slots=True)
class ProcessCommand:
    """What starts one process of a deployment: its words, and the variables before them."""

    name: str
    words: tuple[str, ...]
    env: Mapping[str, str]


def process_commands(engine: Engine, kind: str) -> list[ProcessCommand]:
    """The processes of a deployment in the order in which they start, the proxy last; `kind` is what auto means.

    Of a simulated one they are those of vllm-ascend: the simulator needs no more than the role of a KV transfer.
    """
    if engine.process is not None and kind == SIMULATOR:
        engine = engine.model_copy(update={"process": engine.process.model_copy(update={"kind": WITH_IMAGE})})
    processes = [process for process in processes_of(engine, kind) if process.role != PROXY]
    ports = [process.port or _FIRST_PORT + place for place, process in enumerate(processes)]
    commands = [_process_command(process, engine, port) for process, port in zip(processes, ports, strict=True)]
    urls: dict[str, list[str]] = {}
    for process, port in zip(processes, ports, strict=True):
        urls.setdefault(process.role, []).append(f"http://{process.host}:{port}")
    servers = [word for role, listed in urls.items() for word in (f"--{role}", ",".join(listed))]
    proxy = ("harness", "serve-proxy", *servers, "--port", str(_PROXY_PORT))
    return [*commands, ProcessCommand(PROXY, proxy, {})]


def commands_of(engine: Engine, kind: str) -> dict[str, Any]:
    """What starts an engine, for study.json: one command, or the script of a deployment and its processes'."""
    if engine.kind != DEPLOYMENT:
        return {"command": serve_command(engine)}
    processes = [{"name": command.name, "command": list(command.words)} for command in process_commands(engine, kind)]
    return {"command": ["sh", "winner.sh"], "processes": processes}


def _process_command(process: Process, engine: Engine, port: int) -> ProcessCommand:
    alone = engine_of(process, engine)
    words = (*serve_command(alone), "--host", process.host, "--port", str(port))
    devices = ",".join(map(str, process.devices or ()))
    held = {"ASCEND_RT_VISIBLE_DEVICES": devices} if devices and process.kind == WITH_IMAGE else {}
    return ProcessCommand(process.name, words, {**environment_of(alone), **held})


def deployment_text(commands: Sequence[ProcessCommand], remarks: Sequence[str] = ()) -> str:
    """The processes of a deployment, a line each, with the name above it."""
    lines = [f"# {remark}" for remark in remarks]
    for command in commands:
        env = [f"{name}={shlex.quote(value)}" for name, value in command.env.items()]
        lines += [f"# {command.name}", " ".join([*env, shlex.join(command.words)])]
    return "\n".join(lines) + "\n"


def deployment_script(commands: Sequence[ProcessCommand], remarks: Sequence[str] = ()) -> str:
    """A shell script that starts all processes of a deployment on one machine, and stops them together."""
    lines = ["#!/bin/sh", *(f"# {remark}" for remark in remarks), "set -e", "trap 'kill 0' EXIT INT TERM"]
    for command in commands:
        env = " ".join(f"{name}={shlex.quote(value)}" for name, value in command.env.items())
        lines += ["", f"# {command.name}", f"{env} {_folded(command.words)} &".lstrip()]
    return "\n".join([*lines, "", "wait"]) + "\n"


def write_winner_files(folder: Path, kind: str, engine: Engine, devices: int, remarks: Sequence[str]) -> dict[str, str]:
    """Write winner.txt, winner.sh and, of one vllm-ascend, winner.docker.sh; what each holds, by name."""
    if engine.kind == DEPLOYMENT:
        commands = process_commands(engine, kind)
        files = {"winner.txt": deployment_text(commands, remarks), "winner.sh": deployment_script(commands, remarks)}
    else:
        files = {"winner.txt": command_text(engine, remarks), "winner.sh": shell_script(engine, remarks)}
    if kind == WITH_IMAGE and engine.kind != DEPLOYMENT:
        files["winner.docker.sh"] = docker_command(engine, devices, remarks)
    for name, content in files.items():
        (folder / name).write_text(redact(content), encoding="utf-8")
    (folder / "winner.sh").chmod(0o755)
    return files


def flags_changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that differ from those of the base configuration."""
    return {name: value for name, value in after.items() if json.dumps(before.get(name)) != json.dumps(value)}
