"""How is a real vLLM, with or without vllm-ascend, started, watched and stopped?

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
from typing import Any

from harness.engines import guardian
from harness.engines import process as device_memory
from harness.engines.api_client import ControlClient, api_key, pick_model
from harness.engines.base import RunningEngine
from harness.engines.engine_log import BootFacts, boot_facts, failure_cause, message_of
from harness.engines.flag_resolution import ResolvedFlags, examine_flags, started_configuration
from harness.engines.interpreter_probe import SERVER
from harness.engines.interpreter_query import reject_unknown_flags
from harness.engines.process import EngineProcess, uses_stub_device
from harness.errors import EngineError, InputError, suggestion
from harness.scenario.models import Engine
from harness.telemetry.environment import find_npu_smi, this_host

GRACE_S = 20.0  # a tensor-parallel engine takes that long to leave its devices in order
_GUARDIAN_S = 30.0
_POLL_S = 0.2
_OWN_FLAGS = {"model": "engine.model", "host": "engine.host", "port": "engine.port", "api_key": "engine.api_key_env"}
_DEVICES = {"vllm-ascend": "ASCEND_RT_VISIBLE_DEVICES", "vllm": "CUDA_VISIBLE_DEVICES"}
_LOG_TAIL = 1 << 20  # bytes of a log in which the reason of a death is looked for


@asynccontextmanager
async def start_vllm(
    engine: Engine, log: Path, *, kind: str, known: ResolvedFlags | None = None
) -> AsyncIterator[RunningEngine]:
    """Start vLLM with the scenario's flags, yield when it answers, and stop all of it at the end.

    `known` is what the flags become where that was asked before; vLLM is then imported by the engine alone.

    Raises:
        InputError: where a flag is one that the installed version does not know.
        EngineError: where it does not come up; one line with what its log says of the reason.
    """
    env, python = environment_of(engine, kind), engine.python or sys.executable
    resolved = await check_flags(engine, kind, python, env, known=known)
    port = _port(engine)
    command = _command(engine, python, port, resolved.words)
    async with guarded_process(engine, kind, command, log) as (watch, group):
        async with ControlClient(_url(engine.host, port), engine) as control:
            model = await within_ready_timeout(_answering(engine, control, watch), engine, watch)
            cache = await control.effective()
        yield RunningEngine(
            kind,
            _url(engine.host, port),
            model,
            simulated=False,
            reach=engine,
            command=tuple(command),
            configuration=started_configuration(resolved.args, resolved, watch.facts, cache),
            hollow=uses_stub_device(group),
            ending=watch.ending,
            pid=group,
        )


@asynccontextmanager
async def guarded_process(
    engine: Engine, kind: str, command: list[str], log: Path
) -> AsyncIterator[tuple["EngineWatch", int]]:
    """Run an engine's command under the guardian; who watches it, and its process group.

    At the end nothing of it is left, and the devices hold what they held before.

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
        device_memory.log_memory_left(log, await device_memory.wait_for_memory(smi, engine.devices, before))


def environment_of(engine: Engine, kind: str) -> dict[str, str]:
    """What the engine finds in its environment beside what it inherits; the scenario's word is last."""
    if kind not in _DEVICES:
        return dict(engine.env)
    env = {"VLLM_NO_USAGE_STATS": "1"}  # a benchmark tells nobody that it runs
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
    """What the flags become, once nothing in the scenario speaks against a start; `known` is that if it was asked."""
    if engine.model is None:
        raise InputError(f"engine.model: is missing; kind {kind} expects a model's name or folder")
    for name, key in _OWN_FLAGS.items():
        if name in engine.args:
            raise InputError(f"engine.args.{name}: belongs elsewhere; expected {key}")
    if (absent := missing_folder(engine.model)) is not None:
        raise InputError(f"engine.model: {absent}")
    points = [engine.args] if known is None else []
    examined = await examine_flags(kind, python, env, engine.model, points, usage=usage)
    found, resolved = examined.installed, known or examined.resolved[0]
    for package, there in (("vllm", found.vllm), ("vllm_ascend", found.ascend or kind != "vllm-ascend")):
        if not there:
            raise EngineError(
                f"engine.python {python}: has no {package}; expected the interpreter in which it is installed"
            )
    reject_unknown_flags(engine.args, found)
    if resolved.wrong:
        raise InputError(*resolved.wrong)
    if resolved.fault is not None:
        raise EngineError(f"engine: would not start, by vLLM's own check of its configuration: {resolved.fault}")
    return resolved


def missing_folder(model: str) -> str | None:
    """What is wrong with a model that looks like a folder and is not there; told without vLLM, which takes its time."""
    folder = Path(model)
    if not model.startswith(("/", "./", "../")) or folder.exists():
        return None
    beside = sorted(str(one) for one in folder.parent.glob("*/"))
    return f"there is no {model}; {suggestion(model, beside) if beside else 'expected a folder'}"


def _port(engine: Engine) -> int:
    """The port asked for, if it is free, or else any free one."""
    family = socket.AF_INET6 if ":" in engine.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # vLLM sets it too
        try:
            probe.bind((engine.host, engine.port or 0))
        except OSError as fault:
            where = f"engine.port {engine.port}" if engine.port else f"engine.host {engine.host}"
            raise EngineError(
                f"{where}: cannot listen on {engine.host} ({fault.strerror}); expected a free one"
            ) from None
        return int(probe.getsockname()[1])


def _url(host: str, port: int) -> str:
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:  # it listens everywhere; it is asked from here
            host = "::1" if address.version == 6 else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _command(engine: Engine, python: str, port: int, words: Sequence[str]) -> list[str]:
    place = ["--model", str(engine.model), "--host", engine.host, "--port", str(port)]
    return [python, "-m", "vllm.entrypoints.openai.api_server", *place, *words]


async def within_ready_timeout(answering: Awaitable[str], engine: Engine, watch: "EngineWatch") -> str:
    """What an engine's answer is once it is ready.

    Raises:
        EngineError: it did not come within `engine.ready_timeout`; with the engine's last words.
    """
    try:
        return await asyncio.wait_for(answering, engine.ready_timeout)
    except asyncio.TimeoutError:
        said = watch.last_words()
        raise EngineError(
            f"engine: not ready within {engine.ready_timeout:g} s (engine.ready_timeout); "
            f"{f'its last words: {said}' if said else 'it said nothing'}; see {watch.log}"
        ) from None


async def _answering(engine: Engine, control: ControlClient, watch: "EngineWatch") -> str:
    """The model's name, once /health and a completion of one token have answered."""
    while not await control.healthy():
        await watch.rest()
    asked = None if "served_model_name" in engine.args else engine.model
    model = pick_model(asked, await control.models() or [], "engine")
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
        said = filter(None, (message_of(line).strip() for line in reversed(lines)))
        self._last = next(said, self._last)

    async def rest(self) -> None:
        """Wait a little.

        Raises:
            EngineError: where the engine has ended meanwhile.
        """
        self.read()
        if self._process.exit_status is not None:
            raise EngineError(f"engine: did not start: {self._reason()}; see {self.log}")
        await asyncio.sleep(_POLL_S)

    def last_words(self) -> str:
        """The last line that it wrote, without what stands before its message."""
        return self._last[:200]

    def ending(self) -> str | None:
        """Why it ended by itself, in one line, or None while it lives."""
        return None if self._process.ending() is None else f"the engine died: {self._reason()}; see {self.log}"

    def _reason(self) -> str:
        status = self._process.exit_status
        with self.log.open("rb") as file:
            file.seek(max(self._begin, self.log.stat().st_size - _LOG_TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
        if status == 128 + signal.SIGKILL:
            return "it was killed (SIGKILL); the system kills what takes too much memory"
        return f"{failure_cause(lines).words} ({_status(status)})"


def _status(status: Any) -> str:
    if isinstance(status, int) and 128 < status < 128 + signal.NSIG:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(status - 128).name}"
    return f"exit status {status}"
