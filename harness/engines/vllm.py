"""A real vLLM, with or without vllm-ascend: started, watched and stopped.

`python -m vllm.entrypoints.openai.api_server` in the interpreter that the scenario names, under a
guardian that ends it when this process is gone.
"""

import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from harness.engines import guardian
from harness.engines import process as device_memory
from harness.engines.api_client import ControlClient, api_key, pick_model
from harness.engines.base import RunningEngine
from harness.engines.engine_log import BootFacts, boot_facts, failure_cause, message_of
from harness.engines.flag_resolution import ResolvedFlags, examine_flags, started_configuration
from harness.engines.interpreter_probe import SERVER
from harness.engines.interpreter_query import reject_unknown_flags
from harness.engines.process import EngineProcess, OnMemoryLeft, exit_message, uses_stub_device
from harness.errors import EngineError, InputError, suggestion
from harness.messages import Message, message
from harness.scenario.engine import Engine
from harness.telemetry.environment import find_npu_smi, this_host

GRACE_S = 20.0  # a tensor-parallel engine takes that long to leave its devices in order
_GUARDIAN_S = 30.0
_POLL_S = 0.2
_OWN_FLAGS = {"model": "engine.model", "host": "engine.host", "port": "engine.port", "api_key": "engine.api_key_env"}
_DEVICES = {"vllm-ascend": "ASCEND_RT_VISIBLE_DEVICES", "vllm": "CUDA_VISIBLE_DEVICES"}
_LOG_TAIL = 1 << 20  # bytes of a log in which the reason of a death is looked for


@asynccontextmanager
async def start_vllm(
    engine: Engine,
    log: Path,
    *,
    kind: str,
    known: ResolvedFlags | None = None,
    on_memory_left: OnMemoryLeft = lambda _devices: None,
) -> AsyncIterator[RunningEngine]:
    """Start vLLM with the scenario's flags, yield when it answers, and stop all of it at the end.

    `known` is what the flags become where that was resolved before; vLLM is then imported by the engine alone.
    `on_memory_left` is called after the end where devices did not come back to what they held before.

    Raises:
        InputError: where a flag is one that the installed version does not know.
        EngineError: where it does not come up; one line with what its log says of the reason.
    """
    env, python = environment_of(engine, kind), engine.python or sys.executable
    resolved = await check_flags(engine, kind, python, env, known=known)
    port = _port(engine)
    command = _command(engine, python, port, resolved.words)
    async with guarded_process(engine, kind, command, log, on_memory_left) as (watch, group):
        async with ControlClient(url_of(engine.host, port), engine) as control:
            model = await within_ready_timeout(_answering(engine, control, watch), engine, watch)
            cache = await control.effective()
        yield RunningEngine(
            kind,
            url_of(engine.host, port),
            model,
            simulated=False,
            reach=engine,
            command=tuple(command),
            configuration=started_configuration(resolved.args, resolved, watch.facts, cache),
            stub_device=uses_stub_device(group),
            ending=watch.ending,
            pid=group,
        )


@asynccontextmanager
async def guarded_process(
    engine: Engine,
    kind: str,
    command: list[str],
    log: Path,
    on_memory_left: OnMemoryLeft = lambda _devices: None,
) -> AsyncIterator[tuple["EngineWatch", int]]:
    """Run an engine's command under the guardian; yields its watch and its process group.

    At the end nothing of it is left, and the devices hold what they held before; those that do not are told.

    Raises:
        EngineError: where its program cannot be run.
    """
    words = [sys.executable, "-I", "-S", str(guardian.__file__), str(GRACE_S), *command]
    process = EngineProcess(words, log, environment_of(engine, kind), stop_s=GRACE_S + 15)
    smi = find_npu_smi(this_host()) if kind == "vllm-ascend" else None
    before = await device_memory.memory_in_use(smi, engine.devices)
    watch = EngineWatch(process, log)
    await process.start()
    try:
        yield watch, int(await process.first_line(_GUARDIAN_S))
    finally:
        await process.stop()
        left = await device_memory.wait_for_memory(smi, engine.devices, before)
        device_memory.log_memory_left(log, left)
        if left:
            on_memory_left(left)


def environment_of(engine: Engine, kind: str) -> dict[str, str]:
    """The engine's environment beside what it inherits; the scenario's values go last."""
    if kind not in _DEVICES:
        return dict(engine.env)
    env = {"VLLM_NO_USAGE_STATS": "1"}  # a benchmark reports to nobody that it runs
    if engine.devices is not None:
        env[_DEVICES[kind]] = ",".join(str(number) for number in engine.devices)
    if engine.api_key_env is not None:
        env["VLLM_API_KEY"] = api_key(engine.api_key_env)
    return env | engine.env


async def check_flags(
    engine: Engine,
    kind: str,
    python: str,
    env: Mapping[str, str],
    *,
    usage: str = SERVER,
    known: ResolvedFlags | None = None,
) -> ResolvedFlags:
    """What the flags become, once nothing in the scenario forbids a start; `known` is that if it was resolved before.

    Raises:
        InputError: where the scenario's model or flags are wrong.
        EngineError: where a package is missing, or the engine would refuse to start.
    """
    if engine.model is None:
        raise InputError(message("engines.model_missing", kind=kind))
    for name, key in _OWN_FLAGS.items():
        if name in engine.args:
            raise InputError(message("engines.flag_elsewhere", flag=name, key=key))
    if (absent := missing_folder(engine.model)) is not None:
        raise InputError(message("engines.model_absent", reason=absent))
    points = [engine.args] if known is None else []
    examined = await examine_flags(kind, python, env, engine.model, points, usage=usage)
    installed, resolved = examined.installed, known or examined.resolved[0]
    for package, there in (("vllm", installed.vllm), ("vllm_ascend", installed.ascend or kind != "vllm-ascend")):
        if not there:
            raise EngineError(message("engines.python_without", python=python, package=package))
    reject_unknown_flags(engine.args, installed)
    if resolved.value_errors:
        raise InputError(*resolved.value_errors)
    if resolved.refusal is not None:
        raise EngineError(message("engines.would_not_start", reason=resolved.refusal))
    return resolved


def missing_folder(model: str) -> Message | None:
    """What is wrong with a model that looks like a folder and is not there; found without starting vLLM."""
    folder = Path(model)
    if not model.startswith(("/", "./", "../")) or folder.exists():
        return None
    beside = sorted(str(path) for path in folder.parent.glob("*/"))
    near = suggestion(model, beside) if beside else message("engines.expected_folder")
    return message("engines.no_folder", model=model, suggestion=near)


def _port(engine: Engine) -> int:
    """The scenario's port, or any free one where it names none."""
    with bound_socket(engine.host, engine.port) as sock:
        return int(sock.getsockname()[1])


def bound_socket(host: str, port: int | None) -> socket.socket:
    """A socket that has a port of a host, any free one where none is named; nothing listens on it.

    Raises:
        EngineError: where the port is taken, or the host is not this machine's.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # vLLM sets it too
    try:
        sock.bind((host, port or 0))
    except OSError as error:
        sock.close()
        if port:
            taken = message("engines.port_taken", port=port, host=host, reason=error.strerror)
        else:
            taken = message("engines.host_unusable", host=host, reason=error.strerror)
        raise EngineError(taken) from None
    return sock


def url_of(host: str, port: int | str) -> str:
    """The address at which this machine reaches a server that listens on a host and port."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:  # it listens on every address; requests come from this host
            host = "::1" if address.version == 6 else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _command(engine: Engine, python: str, port: int, words: Sequence[str]) -> list[str]:
    address = ["--model", str(engine.model), "--host", engine.host, "--port", str(port)]
    return [python, "-m", "vllm.entrypoints.openai.api_server", *address, *words]


async def within_ready_timeout(answering: Awaitable[str], engine: Engine, watch: "EngineWatch") -> str:
    """The result of `answering`, once the engine is ready.

    Raises:
        EngineError: it did not come within `engine.ready_timeout`; with the last line of the engine's log.
    """
    try:
        return await asyncio.wait_for(answering, engine.ready_timeout)
    except asyncio.TimeoutError:
        line = watch.last_line()
        last = message("engines.last_line", line=line) if line else message("engines.logged_nothing")
        limit_s, log = engine.ready_timeout, str(watch.log)
        raise EngineError(message("engines.not_ready_in_time", limit_s=limit_s, last=last, log=log)) from None


async def _answering(engine: Engine, control: ControlClient, watch: "EngineWatch") -> str:
    """The model's name, once /health and a completion of one token have answered."""
    while not await control.healthy():
        await watch.rest()
    wanted = None if "served_model_name" in engine.args else engine.model
    model = pick_model(wanted, await control.models() or [], "engine")
    while not await control.answers(model):
        await watch.rest()
    watch.read()
    return model


class EngineWatch:
    """An engine's process and its log, read as it grows."""

    def __init__(self, process: EngineProcess, log: Path) -> None:
        self.log = log
        self.facts = BootFacts()
        self._process = process
        self._begin = self._offset = log.stat().st_size if log.exists() else 0
        self._last = ""

    def read(self) -> None:
        """Take in the lines that have come since."""
        with self.log.open("rb") as file:
            file.seek(self._offset)
            whole, end, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(end)
        lines = whole.decode("utf-8", "replace").splitlines()
        self.facts = boot_facts(lines, self.facts)
        texts = filter(None, (message_of(line).strip() for line in reversed(lines)))
        self._last = next(texts, self._last)

    async def rest(self) -> None:
        """Wait a little.

        Raises:
            EngineError: where the engine has ended meanwhile.
        """
        self.read()
        if self._process.exit_status is not None:
            raise EngineError(message("engines.did_not_start", reason=self._reason(), log=str(self.log)))
        await asyncio.sleep(_POLL_S)

    def last_line(self) -> str:
        """The last line of its log, without what stands before the message."""
        return self._last[:200]

    def ending(self) -> Message | None:
        """Why it ended by itself, None while it lives."""
        if self._process.ending() is None:
            return None
        return message("engines.died", reason=self._reason(), log=str(self.log))

    def _reason(self) -> Message:
        status = self._process.exit_status
        with self.log.open("rb") as file:
            file.seek(max(self._begin, self.log.stat().st_size - _LOG_TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
        if status == 128 + signal.SIGKILL:
            return message("engines.killed")
        return message("engines.failure_and_status", failure=failure_cause(lines).message, status=exit_message(status))
