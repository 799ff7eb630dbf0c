"""The simulator as an engine: `harness serve-sim` in a process of its own, or in this process in virtual time."""

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from harness.clock import REAL_TIME, VIRTUAL_TIME
from harness.engines.api_client import ControlClient, ServedModel, pick_model
from harness.engines.base import RunningEngine, ServedProcess
from harness.engines.engine_log import BootFacts
from harness.engines.flag_resolution import ResolvedFlags, resolve_by_simulator, started_configuration
from harness.engines.process import EngineProcess
from harness.errors import EngineError, InputError
from harness.messages import Message, message
from harness.scenario.deployment import PROXY, Process
from harness.scenario.engine import DEPLOYMENT, Engine
from harness.scenario.processes import engine_of, processes_of
from harness.simulator.balancing import LEAST_LOADED
from harness.simulator.chips import DEFAULT_CHIP, chip_named, read_calibration
from harness.simulator.deployment import Deployment, Member
from harness.simulator.engine_config import Settings, settings_from_flags
from harness.simulator.service import Service, service_of
from harness.simulator.vllm_formats import startup_lines
from harness.telemetry import server_metrics

KIND = "simulator"
_READY_S = 60.0
_ADDRESS = "127.0.0.1"


def resolve_clock(engine: Engine, auto: str = KIND) -> tuple[str, Message]:
    """Whose time a simulated engine keeps, VIRTUAL_TIME or REAL_TIME, and why in a few words.

    Virtual time where the scenario leaves it open, but for an engine that is to listen where others reach it, or a
    deployment with a process that is not simulated; `auto` is what the kind auto means on this machine.

    Raises:
        InputError: where virtual time is asked of processes that keep none.
    """
    served = next((process for process in _processes(engine, auto) if not _keeps_virtual_time(process)), None)
    if served is not None:
        if engine.clock == VIRTUAL_TIME:
            raise InputError(message("engines.clock_not_virtual", name=served.name))
        return REAL_TIME, message("engines.clock_real_process", name=served.name)
    if engine.clock is not None:
        return engine.clock, message("engines.kind_requested")
    if engine.port is not None or engine.host != _ADDRESS:
        return REAL_TIME, message("engines.clock_real", key="port" if engine.port is not None else "host")
    return VIRTUAL_TIME, message("engines.clock_virtual")


def _processes(engine: Engine, auto: str = KIND) -> tuple[Process, ...]:
    return processes_of(engine, auto) if engine.kind == DEPLOYMENT else ()


def _keeps_virtual_time(process: Process) -> bool:
    """Whether a process is simulated, or the proxy of the harness, and need not listen where others reach it."""
    return process.kind in (KIND, PROXY) and process.port is None and process.host == _ADDRESS


def simulate_here(engine: Engine, log: Path, now_ns: Callable[[], int]) -> tuple[RunningEngine, Service | Deployment]:
    """The simulated engine in this process by another clock, not yet running; its start takes none of that time.

    Of a deployment these are all its processes, each with a log of its own beside `log`.

    Raises:
        InputError: where a flag is unknown or its value is wrong.
        EngineError: where it cannot start with its flags.
    """
    if engine.kind == DEPLOYMENT:
        return _simulate_deployment(engine, log, now_ns)
    return _simulate_server(engine, log, now_ns)


def _simulate_deployment(engine: Engine, log: Path, now_ns: Callable[[], int]) -> tuple[RunningEngine, Deployment]:
    processes, served, members = _processes(engine), [], []
    policy = next((process.policy for process in processes if process.role == PROXY), None) or LEAST_LOADED
    for process in processes:
        if process.role == PROXY:
            served.append(ServedProcess(process.name, process.role, process.kind, simulated=True))
            continue
        own = log.with_name(f"{log.stem}-{process.name}{log.suffix}")
        try:
            serving, service = _simulate_server(engine_of(process, engine), own, now_ns)
        except (InputError, EngineError) as fault:
            named = (message("engines.of_process", name=process.name, reason=each) for each in fault.messages)
            raise type(fault)(*named) from fault
        members.append(Member(process.name, process.role, service))
        served.append(
            ServedProcess(
                process.name, process.role, KIND, devices=process.devices, configuration=serving.configuration,
                simulated=True, log=own.name,
            )
        )  # fmt: skip
    deployment = Deployment(members, policy)
    model = _model_of(engine, members[0].service.settings)
    running = RunningEngine(DEPLOYMENT, "", model, simulated=True, processes=tuple(served), clock=VIRTUAL_TIME)
    return running, deployment


def _simulate_server(engine: Engine, log: Path, now_ns: Callable[[], int]) -> tuple[RunningEngine, Service]:
    resolved = resolve_by_simulator(engine.model, calibrated_flags(engine))
    refuse_flags(resolved)
    service = service_of(settings_from_flags(flags_with_model(engine.model, resolved.args)), now_ns)
    lines = startup_lines(service.settings, service.memory)
    log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    cache = server_metrics.cache_config(service.metrics())
    configuration = started_configuration(resolved.args, resolved, BootFacts(), cache)
    model = _model_of(engine, service.settings)
    return RunningEngine(KIND, "", model, simulated=True, configuration=configuration, clock=VIRTUAL_TIME), service


def _model_of(engine: Engine, settings: Settings) -> str:
    """The name that requests call the model by: the first of those that its flags give, else its own."""
    wanted = None if settings.served_model_name else engine.model
    return pick_model(wanted, [ServedModel(name, settings.model, None) for name in settings.names], KIND)


def refuse_flags(resolved: ResolvedFlags) -> None:
    """Refuse flags that the simulator would not start with.

    Raises:
        InputError: where a flag is unknown or its value is wrong.
        EngineError: where the engine cannot start with them, for want of memory for one.
    """
    if resolved.value_errors:
        raise InputError(*resolved.value_errors)
    if resolved.refusal is not None:
        raise EngineError(message("engines.refused", reason=resolved.refusal))


@asynccontextmanager
async def start_simulator(engine: Engine, log: Path) -> AsyncIterator[RunningEngine]:
    """Start `harness serve-sim` with the scenario's engine flags, and stop it at the end.

    Raises:
        EngineError: where it refuses its flags or does not come up.
    """
    model_words = [] if engine.model is None else ["--model", engine.model]
    address = ["--host", engine.host, "--port", str(engine.port or 0), "--until-stdin-closes"]
    resolved = resolve_by_simulator(engine.model, calibrated_flags(engine))
    args = resolved.args
    command = [sys.executable, "-m", "harness", "serve-sim", *address, *model_words, *resolved.words]
    refuse_flags(resolved)
    process = EngineProcess(command, log, engine.env)
    await process.start()
    try:
        url = await process.first_line(min(_READY_S, engine.ready_timeout))
        async with ControlClient(url) as control:
            wanted = None if "served_model_name" in args else engine.model
            model = pick_model(wanted, await control.models() or [], url)
            cache = await control.effective()
        yield RunningEngine(
            KIND,
            url,
            model,
            simulated=True,
            command=tuple(command),
            configuration=started_configuration(args, resolved, BootFacts(), cache),
            ending=process.ending,
            pid=process.pid,
        )
    finally:
        await process.stop()


def calibrated_flags(engine: Engine) -> Mapping[str, Any]:
    """The engine's flags over those of its `calibration`.

    Raises:
        InputError: where that is no result of kernels measured on such a chip.
    """
    if engine.calibration is None:
        return engine.args
    chip = chip_named(str(engine.args.get("chip", DEFAULT_CHIP)))
    return {**read_calibration(Path(engine.calibration), chip).flags, **engine.args}


def flags_with_model(model: str | None, args: Mapping[str, Any]) -> dict[str, Any]:
    """Flags with the model among them, where one is named."""
    return dict(args) if model is None else {"model": model, **args}
