"""The engine of a scenario: what serves, with which flags, and how it is started or reached."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)

from harness.clock import VIRTUAL_TIME
from harness.messages import message
from harness.plugins import ENGINES, installed, load_plugin
from harness.safety.redaction import names_secret
from harness.scenario.base import Duration, FileModel, Many, NonEmptyText, matching, refused
from harness.scenario.deployment import Preset, Process, ProcessPart, ProcessTemplate
from harness.scenario.flags import VARIABLE, Args, Variable, Variables

ENGINE_KINDS = ("auto", "simulator", "vllm-ascend", "vllm", "attach", "deployment")
OF_DEPLOYMENT = ("processes", "preset", "process", "prefill", "decode")
"""Keys of an engine that only a deployment has."""
DEPLOYMENT = "deployment"


def _reachable_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        secret = parts.username is not None or parts.password is not None
        secret = secret or any(names_secret(name) for name, _ in parse_qsl(parts.query))
        whole = bool(parts.hostname) and not parts.fragment and parts.port != 0
    except ValueError:
        secret = whole = False
    if secret:
        raise refused(message("scenario.secret_in_address"))
    if not whole or re.match(r"https?://\S+$", url) is None:
        raise refused(message("scenario.expected_address"))
    return url


Address = Annotated[str, AfterValidator(_reachable_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
Header = Annotated[str, AfterValidator(matching(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+", message("scenario.expected_header")))]
Route = Annotated[str, AfterValidator(matching(r"/[!-~]*", message("scenario.expected_route")))]


class FromEnvironment(FileModel):
    """A value that is not written in the file."""

    from_env: Variable
    """The name of an environment variable that holds the value."""


HeaderValue = Annotated[
    Annotated[str, AfterValidator(matching(r"[ -~]*", message("scenario.expected_ascii"))), Tag("plain")]
    | Annotated[FromEnvironment, Tag("secret")],
    Discriminator(lambda value: "plain" if isinstance(value, str) else "secret"),
]


class Tls(FileModel):
    """How an https server is trusted."""

    ca: NonEmptyText | None = None
    """A file of certificates (PEM) that are trusted beside the system's."""
    insecure: bool = False
    """Whether any certificate is taken, also one that nobody vouches for."""


class Paths(FileModel):
    """Paths of a server whose routes differ from vLLM's, from its root."""

    completions: Route | None = None
    """In place of /v1/completions."""
    chat: Route | None = None
    """In place of /v1/chat/completions."""
    responses: Route | None = None
    """In place of /v1/responses."""
    embeddings: Route | None = None
    """In place of /v1/embeddings."""
    rerank: Route | None = None
    """In place of /v1/rerank."""
    score: Route | None = None
    """In place of /v1/score."""
    models: Route | None = None
    """In place of /v1/models."""
    metrics: Route | None = None
    """In place of /metrics."""
    health: Route | None = None
    """In place of /health."""


def _engine_kind(value: Any, check_built_in: ValidatorFunctionWrapHandler) -> Any:
    """A built-in kind, or one that a package brings."""
    return value if isinstance(value, str) and value in installed(ENGINES) else check_built_in(value)


class Engine(FileModel):
    """Which engine serves, and how it is started or reached."""

    kind: Annotated[
        SerializeAsAny[Literal["auto", "simulator", "vllm-ascend", "vllm", "attach", "deployment"]],
        WrapValidator(_engine_kind),
    ] = "auto"
    """What serves; auto is vllm-ascend where an NPU is found, else the simulator."""
    model: NonEmptyText | None = None
    """The model's name, such as Qwen/Qwen2.5-7B-Instruct."""
    args: Args = Field(default_factory=dict)
    """Any flags of `vllm serve`, as max_model_len or max-model-len."""
    url: Address | None = None
    """The address of a running server, such as http://127.0.0.1:8000; for kind attach, or before a deployment."""
    metrics: Many[Address] | None = None
    """The addresses of the counters, one for each engine, where `url` is a proxy's; for kind attach."""
    api_key_env: Annotated[Variable, WithJsonSchema({"type": "string", "pattern": f"^{VARIABLE}$"})] | None = None
    """The name of an environment variable that holds the API key; never the key itself."""
    headers: dict[Header, HeaderValue] = Field(default_factory=dict)
    """More headers for each request; a secret one as {from_env: VARIABLE}; for kind attach."""
    tls: Tls = Tls()
    """How an https server is trusted; for kind attach."""
    paths: Paths = Paths()
    """Paths of a server whose routes differ; for kind attach."""
    python: NonEmptyText | None = None
    """The interpreter that has vLLM installed; this one by default."""
    env: Variables = Field(default_factory=dict)
    """Environment variables for the engine, beside those it inherits."""
    devices: Many[Annotated[int, Field(ge=0, le=4095)]] | None = None
    """The numbers of the devices the engine may use; all by default."""
    host: NonEmptyText = "127.0.0.1"
    """The address the engine listens on."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The port the engine listens on; a free one by default."""
    ready_timeout: Duration = 1800.0
    """How long the engine may take until it answers, such as 30m."""
    calibration: NonEmptyText | None = None
    """A result folder of kernels, by which the simulator's attention is timed; for kind simulator or auto."""
    clock: Literal["virtual", "real"] | None = None
    """The simulator's time: virtual computes a run, real serves it; virtual by default, for kind simulator or auto."""
    processes: Many[Process] | None = None
    """Processes that serve together, in the order in which they start; for kind deployment."""
    preset: Preset | None = None
    """What writes the processes; for kind deployment."""
    process: ProcessTemplate | None = None
    """What each engine of the preset is started with, over the keys of the engine."""
    prefill: ProcessPart | None = None
    """What the processes that prefill have, over `process`."""
    decode: ProcessPart | None = None
    """What the processes that decode have, over `process`."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Keys of an engine kind that a package brings."""

    @field_validator("options")
    @classmethod
    def _of_its_kind(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind = info.data.get("kind", "auto")
        if kind in ENGINE_KINDS and options:
            raise refused(message("plugins.options_of_built_in", kind=kind))
        if kind not in ENGINE_KINDS:
            load_plugin(ENGINES, kind).options.model_validate(options, context=info.context)
        return options

    @model_validator(mode="after")
    def _reached_or_started(self) -> "Engine":
        if self.kind == "attach" and self.url is None:
            raise refused(message("scenario.attach_needs_url"))
        if self.kind not in ("attach", DEPLOYMENT) and self.url is not None:
            raise refused(message("scenario.belongs_to_attach", key="url", kind=self.kind))
        for key in ("headers", "tls", "paths", "metrics"):
            if self.kind != "attach" and key in self.model_fields_set and getattr(self, key) != _NOTHING[key]:
                raise refused(message("scenario.belongs_to_attach", key=key, kind=self.kind))
        roots = [url.rstrip("/").removesuffix("/metrics") for url in self.metrics or ()]
        if len(set(roots)) < len(roots):
            raise refused(message("scenario.metrics_twice", url=max(roots, key=roots.count)))
        for key in ("calibration", "clock"):
            if getattr(self, key) is not None and self.kind not in ("simulator", "auto", DEPLOYMENT):
                raise refused(message("scenario.belongs_to_simulator", key=key, kind=self.kind))
        if self.clock == VIRTUAL_TIME and self.port is not None:
            raise refused(message("scenario.virtual_port", port=self.port))
        return self

    @model_validator(mode="after")
    def _alone(self) -> "Engine":
        for key in OF_DEPLOYMENT:
            if self.kind != DEPLOYMENT and getattr(self, key) is not None:
                of_preset = self.preset is not None and self.kind in ("simulator", "vllm-ascend", "vllm")
                code = "scenario.belongs_to_preset_of" if of_preset else "scenario.belongs_to_deployment"
                raise refused(message(code, key=key, kind=self.kind))
        return self

    @model_validator(mode="after")
    def _whole_deployment(self) -> "Engine":
        if self.kind != DEPLOYMENT:
            return self
        if self.processes is None and self.preset is None:
            raise refused(message("scenario.deployment_needs_processes"))
        for key in ("devices", "host", "port"):
            if key in self.model_fields_set and getattr(self, key) != _NOTHING[key]:
                raise refused(message("scenario.belongs_to_processes", key=key))
        if self.preset is None and self.process is not None:
            raise refused(message("scenario.belongs_to_preset", key="process"))
        if self.preset is None or self.preset.prefill_decode is None:
            for key in ("prefill", "decode"):
                if getattr(self, key) is not None:
                    raise refused(message("scenario.belongs_to_prefill_decode", key=key))
        return self


_NOTHING: dict[str, Any] = {
    "headers": {}, "tls": Tls(), "paths": Paths(), "metrics": None, "devices": None, "host": "127.0.0.1", "port": None,
}  # fmt: skip
