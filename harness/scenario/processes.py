"""The processes of a deployment, each with all that the engine's keys and a preset write for it.

The flags of presets are those that vllm-ascend documents, alike for v0.23 and main: data parallel in
examples/external_online_dp/run_dp_template.sh and in vLLM's own help, prefill and decode in
docs/source/tutorials/features/pd_disaggregation_mooncake_multi_node.md.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count, islice
from typing import Any

from harness.scenario.base import many
from harness.scenario.deployment import (
    COMMAND,
    DECODE,
    EXTERNAL,
    HYBRID,
    INDEPENDENT,
    INTERNAL,
    PREFILL,
    PROXY,
    REPLICA,
    DataParallel,
    PrefillDecode,
    Process,
    ProcessPart,
    ProcessTemplate,
)
from harness.scenario.engine import Engine

SIMULATOR = "simulator"
LOOPBACK = "127.0.0.1"
_KV_PORTS = 100  # from one process's first port of KV transfer to the next's, as the documents have it
_LOCAL = re.compile(r"localhost|127\.[0-9.]+|::1|0\.0\.0\.0|::")
_INTERFACES = ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME")


@dataclass(frozen=True, slots=True)
class _Group:
    """Processes of one role: what the scenario says of them all, and the flags that the preset writes for each."""

    role: str
    part: ProcessPart
    flags: tuple[Mapping[str, Any], ...]


def processes_of(engine: Engine, auto: str = SIMULATOR) -> tuple[Process, ...]:
    """All processes of a deployment, in the order in which they start, each with all its values.

    `auto` is what the kind auto means on this machine.
    """
    written = () if engine.preset is None else tuple(map(_with_role, _written(engine, auto)))
    listed = tuple(_with_role(_completed(process, engine, auto)) for process in engine.processes or ())
    if len(written) < 2 or engine.url is not None or any(process.role == PROXY for process in listed):
        return (*written, *listed)
    host = written[0].host if is_loopback(written[0].host) else LOOPBACK
    policy = _template(engine).policy
    proxy = Process.model_validate({"name": PROXY, "role": PROXY, "kind": PROXY, "policy": policy, "host": host})
    return (*written, *listed, _completed(proxy, engine, auto))


def _with_role(process: Process) -> Process:
    """A simulator is told by a flag which side of a pair it is, where no other flag does."""
    role = {PREFILL: "kv_producer", DECODE: "kv_consumer"}.get(process.role)
    if process.kind != SIMULATOR or role is None or "kv_transfer_config" in process.args:
        return process
    return process.model_copy(update={"args": {**process.args, "kv_transfer_config": {"kv_role": role}}})


def is_loopback(host: str) -> bool:
    """Whether a host can only be this machine."""
    return _LOCAL.fullmatch(host) is not None


def cards(args: Mapping[str, Any]) -> int:
    """How many devices a process with these flags has: those of each rank, times its ranks."""
    each = _number(args, "tensor_parallel_size") * _number(args, "pipeline_parallel_size")
    each *= _number(args, "prefill_context_parallel_size")
    if "data_parallel_rank" in args:
        return each
    return each * _number(args, "data_parallel_size_local", _number(args, "data_parallel_size"))


def _number(args: Mapping[str, Any], flag: str, default: int = 1) -> int:
    value = args.get(flag, default)
    return int(value) if str(value).isdigit() and int(value) > 0 else default


def _completed(process: Process, engine: Engine, auto: str) -> Process:
    """A listed process, with what it takes from the engine's keys."""
    kind = process.kind if process.kind != "auto" else PROXY if process.role == PROXY else auto
    flags = {} if kind in (COMMAND, PROXY) else {**engine.args, **process.args}
    return process.model_copy(
        update={
            "kind": kind,
            "model": process.model or engine.model,
            "args": flags,
            "env": process.env if kind == PROXY else {**engine.env, **process.env},
            "python": process.python or engine.python,
            "ready_timeout": process.ready_timeout or engine.ready_timeout,
        }
    )


def _template(engine: Engine) -> ProcessTemplate:
    return engine.process or ProcessTemplate()


def _written(engine: Engine, auto: str) -> Iterator[Process]:
    """What the preset writes, with devices shared out in order."""
    kind = auto if _template(engine).kind == "auto" else _template(engine).kind
    groups = tuple(_groups(engine, kind))
    several = len(groups) > 1 or len(groups[0].flags) > 1
    pools: dict[tuple[str, str], Iterator[int]] = {}
    places = [(group, number) for group in groups for number in range(len(group.flags))]
    for index, (group, number) in enumerate(places):
        name = f"{group.role}-{number}" if several else group.role
        process = _process(engine, group, (name, kind), (number, index))
        devices = group.part.devices or _template(engine).devices
        if devices is None and kind == SIMULATOR:
            yield process
            continue
        own = group.role if group.part.devices is not None else ""
        pool = pools.setdefault((own, process.host), count() if devices is None else iter(devices))
        yield process.model_copy(update={"devices": tuple(islice(pool, cards(process.args)))})


def _process(engine: Engine, group: _Group, named: tuple[str, str], numbers: tuple[int, int]) -> Process:
    """One process that a preset writes; `numbers` are its own in its group, and in all."""
    template, part = _template(engine), group.part
    number, index = numbers
    hosts = many(part.host or template.host or LOOPBACK)
    host = hosts[number % len(hosts)]
    port = part.port + number if part.port is not None else None if template.port is None else template.port + index
    written = group.flags[number]
    args = {**engine.args, **template.args, **part.args}
    transfer = _transfer(written.get("kv_transfer_config"), args.get("kv_transfer_config"))
    values = {
        "name": named[0], "role": group.role, "kind": named[1], "model": engine.model,
        "args": {**args, **written, **transfer}, "python": engine.python, "host": host,
        "env": {**_network(engine, host), **engine.env, **template.env, **part.env},
        "ready_timeout": engine.ready_timeout,
    }  # fmt: skip
    return Process.model_validate(values).model_copy(update={"port": port})  # above 65535: a fault of its own


def _network(engine: Engine, host: str) -> dict[str, str]:
    """The variables by which HCCL and Gloo find their network, as the documents set them."""
    assert engine.preset is not None
    if engine.preset.interface is None:
        return {}
    address = {} if is_loopback(host) else {"HCCL_IF_IP": host}
    return {**address, **dict.fromkeys(_INTERFACES, engine.preset.interface)}


def _transfer(written: Any, given: Any) -> dict[str, Any]:
    """The KV transfer's configuration: what the preset writes, and over it what the scenario says of its keys."""
    if written is None or not isinstance(given, Mapping):
        return {}
    return {"kv_transfer_config": {**written, **given}}


def _groups(engine: Engine, kind: str) -> Iterator[_Group]:
    assert engine.preset is not None
    parallel, split = engine.preset.data_parallel, engine.preset.prefill_decode
    if parallel is not None:
        yield _Group(REPLICA, ProcessPart(), tuple(_rank_flags(parallel, kind)))
    if split is not None:
        parts = {PREFILL: engine.prefill or ProcessPart(), DECODE: engine.decode or ProcessPart()}
        flags = _transfer_flags(engine, split, parts)
        counts = {PREFILL: split.prefill, DECODE: split.decode}
        for role, part in parts.items():
            each = tuple({} if kind == SIMULATOR else next(flags) for _ in range(counts[role]))
            yield _Group(role, part, each)


def _rank_flags(parallel: DataParallel, kind: str) -> Iterator[dict[str, Any]]:
    """The flags of each process of a group; simulators that are processes of their own know of no group."""
    size, balancer = parallel.size, parallel.load_balancer
    group = {"data_parallel_address": parallel.address, "data_parallel_rpc_port": parallel.rpc_port}
    if balancer == INTERNAL:
        yield {"data_parallel_size": size}
    elif balancer == HYBRID:
        local = parallel.local or 1
        for start in range(0, size, local):
            ranks = {"data_parallel_size_local": local, "data_parallel_start_rank": start}
            real = {"data_parallel_size": size, **ranks, "data_parallel_hybrid_lb": True, **group}
            yield real if kind != SIMULATOR else {"data_parallel_size": local}
    elif balancer == EXTERNAL and kind != SIMULATOR:
        yield from ({"data_parallel_size": size, "data_parallel_rank": rank, **group} for rank in range(size))
    else:
        assert balancer in (EXTERNAL, INDEPENDENT)
        yield from ({} for _ in range(size))


def _transfer_flags(engine: Engine, split: PrefillDecode, parts: Mapping[str, ProcessPart]) -> Iterator[dict[str, Any]]:
    """The flags of each process, those that prefill first."""
    shared = {**engine.args, **_template(engine).args}
    sizes = {
        role: {
            "dp_size": _number({**shared, **part.args}, "data_parallel_size"),
            "tp_size": _number({**shared, **part.args}, "tensor_parallel_size"),
        }
        for role, part in parts.items()
    }
    roles = ["kv_producer"] * split.prefill + ["kv_consumer"] * split.decode
    for number, role in enumerate(roles):
        yield {
            "kv_transfer_config": {
                "kv_connector": split.connector,
                "kv_role": role,
                "kv_port": str(split.kv_port + number * _KV_PORTS),
                "engine_id": str(number),
                "kv_connector_extra_config": sizes,
            }
        }


def engine_of(process: Process, engine: Engine) -> Engine:
    """The engine that a process is, as if it were alone; for the kinds that the harness starts."""
    simulated = process.kind == SIMULATOR
    values = {
        "kind": process.kind, "model": process.model, "args": dict(process.args), "env": dict(process.env),
        "python": process.python, "devices": process.devices, "host": process.host, "port": process.port,
        "ready_timeout": process.ready_timeout or engine.ready_timeout, "api_key_env": engine.api_key_env,
        "calibration": engine.calibration if simulated else None, "clock": "real" if simulated else None,
    }  # fmt: skip
    return Engine.model_validate(values)


def holders_of(engine: Engine, name: str) -> list[tuple[str | int, ...]]:
    """The places whose keys a process has, by its name: what overrides stands before what it overrides."""
    listed = [number for number, process in enumerate(engine.processes or ()) if process.name == name]
    role = next((process.role for process in processes_of(engine) if process.name == name), "")
    written: list[tuple[str | int, ...]] = [("engine", role), ("engine", "process")]
    return [*([("engine", "processes", number) for number in listed] or written), ("engine",)]


def load_process(processes: Sequence[Process]) -> Process | None:
    """The process that requests go to: the proxy, or the only one; None where that is not clear."""
    proxies = [process for process in processes if process.role == PROXY]
    chosen = proxies or list(processes)
    return chosen[0] if len(chosen) == 1 else None


def neighbours(processes: Sequence[Process]) -> Iterator[tuple[Process, Process]]:
    """Each two processes of one machine, so far as their hosts tell."""
    for first, second in combinations(processes, 2):
        if first.host == second.host or (is_loopback(first.host) and is_loopback(second.host)):
            yield first, second
