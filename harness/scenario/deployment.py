"""Deployments in a scenario: processes that serve together, and presets that write them.

A preset says how many there are; `harness.scenario.processes` writes it out as a list of processes.
"""

import shlex
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from harness.messages import message
from harness.scenario.base import Duration, FileModel, Many, Name, NonEmptyText, OneOrMany, matching, refused
from harness.scenario.flags import Args, Variables

PREFILL, DECODE, REPLICA, PROXY = ROLES = ("prefill", "decode", "replica", "proxy")
"""What a process of a deployment does; a proxy has no scheduler and no cache, so no engine."""
COMMAND = "command"
STARTED_KINDS = ("simulator", "vllm-ascend", "vllm")
"""Kinds of processes that are engines which the harness knows how to start."""
INTERNAL, EXTERNAL, HYBRID, INDEPENDENT = ("internal", "external", "hybrid", "independent")
LAYERWISE = "MooncakeLayerwiseConnector"  # its requests go to the decode side first, so its proxy is another one


def _words(value: Any) -> Any:
    """A command line as words, split as a shell does it."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(shlex.split(value))
    except ValueError:
        raise refused(message("scenario.expected_command")) from None


Command = Annotated[
    tuple[NonEmptyText, ...],
    BeforeValidator(_words),
    Field(min_length=1, strict=False),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    ),
]
"""A command line: words, or one text that is split as a shell does it."""

Ready = Annotated[
    str,
    AfterValidator(matching(r"(/[!-~]*)|(https?://[!-~]+)", message("scenario.expected_ready"))),
    WithJsonSchema({"type": "string", "pattern": "^(/|https?://)"}),
]
"""A path of a process, or a whole address, that answers 200 once it is ready."""

Port = Annotated[int, Field(ge=1, le=65535)]
Devices = Many[Annotated[int, Field(ge=0, le=4095)]]


class Process(FileModel):
    """One process of a deployment."""

    name: Name
    """A short name, such as decode-0; logs, samples and pages call it so."""
    role: Literal["prefill", "decode", "replica", "proxy"] = "replica"
    """What it does: prefill, decode, replica (both), or proxy, which spreads requests over the others."""
    kind: Literal["auto", "simulator", "vllm-ascend", "vllm", "command", "proxy"] = "auto"
    """What it is: an engine, any command line, or the proxy of the harness; auto as for the engine."""
    model: NonEmptyText | None = None
    """The model's name; the engine's by default."""
    args: Args = Field(default_factory=dict)
    """Flags of `vllm serve`, over those of the engine."""
    command: Command | None = None
    """A command line, with {port}, {host}, {devices}, {url:NAME}, {host:NAME} and {port:NAME}; for kind command."""
    ready: Ready | None = None
    """A path or address that answers 200 once it is ready, such as /health; for kind command."""
    policy: Literal["least-loaded", "round-robin"] | None = None
    """How a proxy of the harness chooses, least-loaded by default; for kind proxy."""
    devices: Devices | None = None
    """The numbers of the devices it may use; all by default."""
    env: Variables = Field(default_factory=dict)
    """Environment variables, over those of the engine."""
    python: NonEmptyText | None = None
    """The interpreter that has vLLM installed; the engine's by default."""
    host: NonEmptyText = "127.0.0.1"
    """The address it listens on; one of another machine means that it is started there, by you, and only reached."""
    port: Port | None = None
    """The port it listens on; a free one by default, and needed on another machine."""
    ready_timeout: Duration | None = None
    """How long it may take until it answers; the engine's by default."""

    @model_validator(mode="after")
    def _of_its_kind(self) -> "Process":
        if self.kind == COMMAND and self.command is None:
            raise refused(message("scenario.command_missing"))
        for key, kind in (("command", COMMAND), ("ready", COMMAND), ("policy", PROXY)):
            written = getattr(self, key) != type(self).model_fields[key].default  # a worker gets all keys
            if written and self.kind != kind and not (key == "policy" and self.role == PROXY):
                raise refused(message("scenario.belongs_to_process_kind", key=key, kind=kind, found=self.kind))
        if self.kind == PROXY and self.role != PROXY:
            raise refused(message("scenario.proxy_role", role=self.role))
        if self.role == PROXY and self.kind in STARTED_KINDS:
            raise refused(message("scenario.proxy_kind", kind=self.kind))
        return self

    @property
    def serves_by_itself(self) -> bool:
        """Whether it has an engine of its own."""
        return self.role != PROXY


class DataParallel(FileModel):
    """Engines with a copy of the attention weights each; experts may be spread over all."""

    size: Annotated[int, Field(ge=2, le=1024)]
    """How many ranks there are."""
    load_balancer: Literal["internal", "external", "hybrid", "independent"] = "internal"
    """What chooses the rank of a request: one server, a proxy over one process a rank, or over several ranks each."""
    local: Annotated[int, Field(ge=1, le=1024)] | None = None
    """How many ranks a process has; for the hybrid load balancer."""
    address: NonEmptyText = "127.0.0.1"
    """The address of the process with rank 0, that the others of the group reach."""
    rpc_port: Port = 12321
    """The port of the group, free on the machine of rank 0."""

    @model_validator(mode="after")
    def _whole_processes(self) -> "DataParallel":
        if (self.load_balancer == HYBRID) != (self.local is not None):
            raise refused(message("scenario.hybrid_local"))
        if self.local is not None and self.size % self.local:
            raise refused(message("scenario.hybrid_uneven", size=self.size, local=self.local))
        return self


class PrefillDecode(FileModel):
    """Some processes prefill; others take over the KV cache and decode."""

    prefill: Annotated[int, Field(ge=1, le=1024)]
    """How many processes prefill."""
    decode: Annotated[int, Field(ge=1, le=1024)]
    """How many processes decode."""
    connector: NonEmptyText = "MooncakeConnectorV1"
    """The KV connector, as vLLM or vllm-ascend names it."""
    kv_port: Port = 36000
    """The first port of the KV transfer; each process takes a hundred from its own on."""

    @model_validator(mode="after")
    def _prompts_first(self) -> "PrefillDecode":
        if self.connector == LAYERWISE:
            raise refused(message("scenario.layerwise_proxy", connector=self.connector))
        return self


class Preset(FileModel):
    """What writes the processes of a deployment: data_parallel, or prefill_decode."""

    data_parallel: DataParallel | None = None
    """Ranks that take requests side by side."""
    prefill_decode: PrefillDecode | None = None
    """Prefill and decode in processes of their own, behind a proxy."""
    interface: NonEmptyText | None = None
    """The network interface of HCCL and Gloo, such as eth0; written into the environment of each process."""

    @model_validator(mode="after")
    def _one(self) -> "Preset":
        if (self.data_parallel is None) == (self.prefill_decode is None):
            raise refused(message("scenario.one_preset"))
        return self


class ProcessPart(FileModel):
    """What the processes of one role have, over what all have."""

    args: Args = Field(default_factory=dict)
    """Flags of `vllm serve`, over those of `process`."""
    env: Variables = Field(default_factory=dict)
    """Environment variables, over those of `process`."""
    devices: Devices | None = None
    """The devices of all processes of this role, shared out in order."""
    host: OneOrMany[NonEmptyText] | None = None
    """The address they listen on, or one for each in turn; of another machine: started there by you."""
    port: Port | None = None
    """The first one's port; the next have the next."""


class ProcessTemplate(ProcessPart):
    """What every engine of a preset is started with."""

    kind: Literal["auto", "simulator", "vllm-ascend", "vllm"] = "auto"
    """What each is; auto as for the engine."""
    policy: Literal["least-loaded", "round-robin"] = "least-loaded"
    """How the proxy chooses."""
