"""What may be wrong between the processes of a deployment, found before anything is started."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from harness.errors import suggestion
from harness.messages import Message, message
from harness.scenario.deployment import COMMAND, DECODE, LAYERWISE, PREFILL, PROXY, ROLES, STARTED_KINDS, Process
from harness.scenario.engine import DEPLOYMENT, Engine
from harness.scenario.error_messages import Fault, KeyPath
from harness.scenario.processes import SIMULATOR, cards, is_loopback, load_process, neighbours, processes_of

PLACEHOLDER = re.compile(r"(?<!\$)\{(?P<what>[a-z_]+)(?::(?P<name>[^{}\s\"']*))?\}")
"""What a command line has in place of a value that is known once ports are: {port}, {url:NAME}, {urls:ROLE}."""
OWN, OF_PROCESS, OF_ROLE = ("port", "host", "devices"), ("url", "host", "port"), ("urls", "hosts", "ports")
_PULLING = ("MooncakeConnectorV1", "MooncakeHybridConnector")  # each rank reads whole ranks of the prefill side
CONNECTORS = (
    *_PULLING, LAYERWISE, "MooncakeConnectorStoreV1", "AscendStoreConnector", "UCMConnector", "LMCacheAscendConnector",
    "RecomputeCPUOffloadConnector", "SimpleCPUOffloadConnector", "MultiConnector", "OffloadingConnector",
    "LMCacheConnectorV1", "LMCacheMPConnector", "NixlConnector", "NixlPullConnector", "NixlPushConnector",
    "MooncakeConnector", "MooncakeStoreConnector", "MoRIIOConnector", "HiSparseConnector",
    "FlexKVConnectorV1", "HF3FSKVConnector", "DecodeBenchConnector", "ExampleConnector", "ExampleHiddenStatesConnector",
)  # fmt: skip
"""The KV connectors that vllm-ascend, first, and vLLM register, in its distributed/kv_transfer."""
_OF_GROUP = re.compile(r"data_parallel_(?!backend)\w+")
_LAST_PORT = 65535
_Placed = tuple[KeyPath, Process]


def deployment_faults(engine: Engine) -> Iterator[Fault]:
    """What is wrong between the processes of a deployment, and with each; nothing of another kind of engine."""
    if engine.kind != DEPLOYMENT:
        return
    placed = tuple(_placed(engine))
    processes = [process for _, process in placed]
    yield from _names(placed)
    yield from _roles(engine, processes)
    yield from _preset(engine)
    yield from _too_few_devices(engine, placed)
    for path, process in placed:
        yield from _models(path, process)
        yield from _addresses(path, process)
        yield from _placeholders(path, process, processes)
    yield from _between(placed)


def _placed(engine: Engine) -> Iterator[_Placed]:
    """Each process, and where it stands: in the list, or in what the preset writes it from."""
    processes, listed = processes_of(engine), len(engine.processes or ())
    first = 0 if engine.preset is None else len(processes_of(engine.model_copy(update={"processes": None, "url": "-"})))
    for number, process in enumerate(processes):
        if first <= number < first + listed:
            yield ("engine", "processes", number - first), process
        else:
            key = next((key for key in (process.role, "process") if getattr(engine, key, None)), "preset")
            yield ("engine", key), process


def _names(placed: tuple[_Placed, ...]) -> Iterator[Fault]:
    names: set[str] = set()
    for path, process in placed:
        if process.name in names:
            yield Fault((*path, "name"), message("scenario.process_twice", name=process.name))
        names.add(process.name)


def _roles(engine: Engine, processes: list[Process]) -> Iterator[Fault]:
    roles = {process.role for process in processes}
    key = "preset" if engine.processes is None else "processes"
    for there, missing in ((PREFILL, DECODE), (DECODE, PREFILL)):
        if there in roles and missing not in roles:
            yield Fault(("engine", key), message("scenario.role_missing", role=there, missing=missing))
            return
    if roles == {PROXY}:
        yield Fault(("engine", key), message("scenario.only_proxies"))
    elif engine.url is None and load_process(processes) is None:
        proxies = [process.name for process in processes if process.role == PROXY]
        if proxies:
            yield Fault(("engine", key), message("scenario.several_proxies", names=proxies))
        else:
            yield Fault(("engine", key), message("scenario.proxy_missing", processes=len(processes)))


def _preset(engine: Engine) -> Iterator[Fault]:
    """What contradicts a preset."""
    if engine.preset is None:
        return
    parts: Mapping[str, Any] = {"process": engine.process, "prefill": engine.prefill, "decode": engine.decode}
    places = [(("engine", "args"), engine.args), *(
        (("engine", key, "args"), part.args) for key, part in parts.items() if part is not None
    )]  # fmt: skip
    for path, args in places:
        for flag in args:
            if engine.preset.data_parallel is not None and _OF_GROUP.fullmatch(flag):
                yield Fault((*path, flag), message("scenario.flag_of_preset", preset="data_parallel"))
            if flag == "kv_transfer_config" and not isinstance(args[flag], dict):
                yield Fault((*path, flag), message("scenario.expected_mapping"))
    if engine.preset.prefill_decode is None:
        return
    sizes = {role: _tensor_parallel(engine, role) for role in (PREFILL, DECODE)}
    if engine.preset.prefill_decode.connector in _PULLING and sizes[PREFILL] < sizes[DECODE]:
        reason = message("scenario.prefill_narrower", prefill=sizes[PREFILL], decode=sizes[DECODE])
        yield Fault(("engine", "preset", "prefill_decode"), reason)


def _tensor_parallel(engine: Engine, role: str) -> int:
    args = next(process.args for process in processes_of(engine) if process.role == role)
    return cards({"tensor_parallel_size": args.get("tensor_parallel_size", 1)})


def _models(path: KeyPath, process: Process) -> Iterator[Fault]:
    if process.model is None and process.kind in STARTED_KINDS and process.kind != SIMULATOR:
        place = (*path, "model") if isinstance(path[-1], int) else ("engine", "model")
        yield Fault(place, message("scenario.model_missing"))


def _too_few_devices(engine: Engine, placed: tuple[_Placed, ...]) -> Iterator[Fault]:
    """Lists of devices that are shorter than the ranks which share them; a preset shares one list out on each host."""
    pools: dict[tuple[KeyPath, str], list[Process]] = {}
    for path, process in placed:
        if process.kind in STARTED_KINDS and process.devices is not None:
            pools.setdefault((_pool(engine, path), process.host), []).append(process)
    for (path, _), processes in pools.items():
        needed, devices = (sum(map(size, processes)) for size in (lambda own: cards(own.args), _listed))
        if devices < needed:
            names = [process.name for process in processes]
            reason = message("scenario.devices_fewer_than_ranks", names=names, needed=needed, devices=devices)
            yield Fault((*path, "devices"), reason)


def _listed(process: Process) -> int:
    return len(process.devices or ())


def _pool(engine: Engine, path: KeyPath) -> KeyPath:
    """Where the devices of a process are listed: with its role or itself, else with all that a preset writes."""
    own = getattr(engine, str(path[1]), None)
    return path if isinstance(path[-1], int) or getattr(own, "devices", None) is not None else ("engine", "process")


def connector_warnings(engine: Engine) -> Iterator[Fault]:
    """KV connectors that neither vLLM nor vllm-ascend registers; others may be loaded by their module's path."""
    preset = engine.preset and engine.preset.prefill_decode
    if preset:
        yield from _unknown_connector(("engine", "preset", "prefill_decode", "connector"), preset.connector)
    places: list[tuple[KeyPath, Mapping[str, Any]]] = [(("engine", "args"), engine.args)]
    parts = (("process", engine.process), ("prefill", engine.prefill), ("decode", engine.decode))
    places += [(("engine", key, "args"), part.args) for key, part in parts if part is not None]
    listed = enumerate(engine.processes or ())
    places += [(("engine", "processes", number, "args"), process.args) for number, process in listed]
    for path, args in places:
        transfer = args.get("kv_transfer_config")
        if isinstance(transfer, Mapping) and not transfer.get("kv_connector_module_path"):
            name = transfer.get("kv_connector")
            yield from _unknown_connector((*path, "kv_transfer_config", "kv_connector"), name)


def _unknown_connector(path: KeyPath, name: Any) -> Iterator[Fault]:
    if name is not None and name not in CONNECTORS:
        hint = suggestion(str(name), CONNECTORS)
        yield Fault(path, message("scenario.unknown_connector", name=str(name), hint=hint))


def _addresses(path: KeyPath, process: Process) -> Iterator[Fault]:
    highest = max(_ports(process), default=0)
    if highest > _LAST_PORT:
        yield Fault((*path, "port"), message("scenario.port_too_high", name=process.name, port=highest))
    if process.port is None and not is_loopback(process.host):
        yield Fault((*path, "port"), message("scenario.port_elsewhere", host=process.host))


def _placeholders(path: KeyPath, process: Process, processes: list[Process]) -> Iterator[Fault]:
    """Placeholders of a command line and its variables that mean nothing."""
    texts: list[tuple[KeyPath, str]] = [(("command",), word) for word in process.command or ()]
    texts += [(("env", name), value) for name, value in process.env.items() if process.kind == COMMAND]
    for place, text in texts:
        for match in PLACEHOLDER.finditer(text):
            reason = _placeholder(match.group("what"), match.group("name"), process, processes)
            if reason is not None:
                yield Fault((*path, *place), reason)
            elif match.group("what") in OF_ROLE and match.group() != text:
                yield Fault((*path, *place), message("scenario.placeholder_of_words", placeholder=match.group()))


def _placeholder(what: str, name: str | None, process: Process, processes: list[Process]) -> Message | None:
    shown = "{" + what + ("" if name is None else f":{name}") + "}"
    known = OWN if name is None else (*OF_PROCESS, *OF_ROLE)
    if what not in known:
        spelled = [*(f"{{{word}}}" for word in OWN), *(f"{{{word}:NAME}}" for word in (*OF_PROCESS, *OF_ROLE))]
        return message("scenario.unknown_placeholder", placeholder=shown, hint=suggestion(shown, spelled))
    if what == "devices" and process.devices is None:
        return message("scenario.placeholder_devices", placeholder=shown)
    roles = [role for role in ROLES if any(other.role == role for other in processes)]
    names = [] if name is None else roles if what in OF_ROLE else [other.name for other in processes]
    if name is not None and name not in names:
        return message("scenario.unknown_process", placeholder=shown, hint=suggestion(name, names))
    return None


def _between(placed: tuple[_Placed, ...]) -> Iterator[Fault]:
    """Devices and ports that two processes of one machine would both take."""
    place_of = {id(process): path for path, process in placed}
    for first, second in neighbours([process for _, process in placed]):
        path = place_of[id(second)]
        shared = sorted(set(first.devices or ()) & set(second.devices or ()))
        if shared:
            yield Fault((*path, "devices"), message("scenario.devices_shared", name=first.name, devices=shared))
        taken = sorted(_ports(first) & _ports(second))
        if taken:
            yield Fault((*path, "port"), message("scenario.ports_shared", name=first.name, port=taken[0]))


def _ports(process: Process) -> set[int]:
    """The ports that a process takes: its own, and those of its KV transfer, one for each device."""
    own = set() if process.port is None else {process.port}
    transfer = process.args.get("kv_transfer_config")
    first = transfer.get("kv_port") if isinstance(transfer, dict) else None
    if not str(first).isdigit():
        return own
    return own | set(range(int(str(first)), int(str(first)) + cards(process.args)))
