"""What may be wrong between the processes of a deployment, found before anything is started."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from harness.errors import suggestion
from harness.messages import Message, message
from harness.scenario.deployment import COMMAND, DECODE, PREFILL, PROXY, ROLES, STARTED_KINDS, Process
from harness.scenario.engine import DEPLOYMENT, Engine
from harness.scenario.error_messages import Fault, KeyPath
from harness.scenario.processes import SIMULATOR, cards, is_loopback, load_process, neighbours, processes_of

PLACEHOLDER = re.compile(r"(?<!\$)\{(?P<what>[a-z_]+)(?::(?P<name>[^{}\s\"']*))?\}")
"""What a command line has in place of a value that is known once ports are: {port}, {url:NAME}, {urls:ROLE}."""
OWN, OF_PROCESS, OF_ROLE = ("port", "host", "devices"), ("url", "host", "port"), ("urls", "hosts", "ports")
_PULLING = ("MooncakeConnectorV1", "MooncakeHybridConnector")  # each rank reads whole ranks of the prefill side
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
    if process.kind in STARTED_KINDS and process.devices is not None and len(process.devices) < cards(process.args):
        needed, devices = cards(process.args), len(process.devices)
        left = message("scenario.devices_fewer_than_ranks", name=process.name, needed=needed, devices=devices)
        yield Fault((*path, "devices"), left)


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
