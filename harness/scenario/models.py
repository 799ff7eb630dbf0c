"""A scenario as a checked value: engine with its flags, objectives, warm-up, and the whole."""

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
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
from harness.errors import suggestion
from harness.messages import Message, message
from harness.plugins import ENGINES, installed, load_plugin
from harness.safety.redaction import names_secret
from harness.scenario.base import (
    DURATION_SCHEMA,
    Duration,
    FileModel,
    Many,
    Name,
    NonEmptyText,
    ends_once,
    matching,
    refused,
)
from harness.scenario.error_messages import show
from harness.scenario.kernels import Kernels
from harness.scenario.metrics import LATENCIES
from harness.scenario.stages import OFFLINE, LoadItem, Stage, expand
from harness.scenario.workload import WorkloadSpec

ENGINE_KINDS = ("auto", "simulator", "vllm-ascend", "vllm", "attach")
_STATISTIC = r"p\d{1,2}(?:\.\d{1,3})?|mean|max"
_SLO_KEY = re.compile(rf"(?P<metric>{'|'.join(LATENCIES)})_(?P<statistic>{_STATISTIC})")
_FLAG = r"[A-Za-z][A-Za-z0-9_.-]*"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"


def _slo_key(key: str) -> str:
    if _SLO_KEY.fullmatch(key) is None:
        meant = re.search(rf"(?:{_STATISTIC})$", key)
        statistic = "p99" if meant is None else meant.group()
        hint = suggestion(key, [f"{metric}_{statistic}" for metric in LATENCIES])
        raise refused(message("scenario.unknown_objective", hint=hint))
    return key


def split_objective(key: str) -> tuple[str, str]:
    """Metric and statistic of an SLO key: `ttft_p99` is ("ttft", "p99")."""
    match = _SLO_KEY.fullmatch(key)
    assert match is not None, key
    return match.group("metric"), match.group("statistic")


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


def _as_text(value: Any) -> Any:
    """Whole numbers as text, for what every shell would take as it stands."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def flag_name(spelled: str) -> str:
    """A flag of `vllm serve` in snake case, however it is spelled: `--max-model-len` is max_model_len."""
    return spelled.removeprefix("--").replace("-", "_")


def _with_keys(pattern: str, values: dict[str, Any]) -> WithJsonSchema:
    """A mapping in the JSON Schema: keys of this pattern, values of this schema."""
    return WithJsonSchema(
        {"type": "object", "patternProperties": {f"^{pattern}$": values}, "additionalProperties": False}
    )


SloKey = Annotated[str, AfterValidator(_slo_key)]
Slo = Annotated[
    dict[SloKey, Duration],
    _with_keys(rf"({'|'.join(LATENCIES)})_({_STATISTIC.replace('?:', '')})", DURATION_SCHEMA),
]
Flag = Annotated[str, AfterValidator(matching(rf"(--)?{_FLAG}", message("scenario.expected_flag")))]
Flags = Annotated[dict[Flag, Any], _with_keys(rf"(--)?{_FLAG}", {})]
Variable = Annotated[str, AfterValidator(matching(_VARIABLE, message("scenario.expected_variable")))]
Variables = Annotated[
    dict[Variable, Annotated[str, BeforeValidator(_as_text)]],
    _with_keys(_VARIABLE, {"type": ["string", "integer"]}),
]


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
        SerializeAsAny[Literal["auto", "simulator", "vllm-ascend", "vllm", "attach"]], WrapValidator(_engine_kind)
    ] = "auto"
    """What serves; auto is vllm-ascend where an NPU is found, else the simulator."""
    model: NonEmptyText | None = None
    """The model's name, such as Qwen/Qwen2.5-7B-Instruct."""
    args: Flags = Field(default_factory=dict)
    """Any flags of `vllm serve`, as max_model_len or max-model-len."""
    url: (
        Annotated[str, AfterValidator(_reachable_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
        | None
    ) = None
    """The address of a running server, such as http://127.0.0.1:8000; for kind attach."""
    api_key_env: Annotated[Variable, WithJsonSchema({"type": "string", "pattern": f"^{_VARIABLE}$"})] | None = None
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

    @field_validator("args")
    @classmethod
    def _in_snake_case(cls, args: dict[str, Any]) -> dict[str, Any]:
        flags: dict[str, Any] = {}
        for spelled, value in args.items():
            flag = flag_name(spelled)
            if flag in flags:
                raise refused(message("scenario.flag_twice", flag=flag, spelled=spelled))
            flags[flag] = value
        return switched(flags)

    @model_validator(mode="after")
    def _reached_or_started(self) -> "Engine":
        if self.kind == "attach" and self.url is None:
            raise refused(message("scenario.attach_needs_url"))
        if self.kind != "attach" and self.url is not None:
            raise refused(message("scenario.belongs_to_attach", key="url", kind=self.kind))
        for key in ("headers", "tls", "paths"):
            if self.kind != "attach" and key in self.model_fields_set and getattr(self, key) != _NOTHING[key]:
                raise refused(message("scenario.belongs_to_attach", key=key, kind=self.kind))
        for key in ("calibration", "clock"):
            if getattr(self, key) is not None and self.kind not in ("simulator", "auto"):
                raise refused(message("scenario.belongs_to_simulator", key=key, kind=self.kind))
        if self.clock == VIRTUAL_TIME and self.port is not None:
            raise refused(message("scenario.virtual_port", port=self.port))
        return self


_NOTHING: dict[str, Any] = {"headers": {}, "tls": Tls(), "paths": Paths()}


class Warmup(FileModel):
    """Load before the first measured stage, recorded and marked but not counted."""

    requests: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """How many requests; instead of duration."""
    duration: Duration | None = None
    """How long, such as 10s; instead of requests."""

    @model_validator(mode="after")
    def _one_end(self) -> "Warmup":
        ends_once(self.requests, self.duration)
        return self


class Scenario(FileModel):
    """One question to an engine: what work, how much of it, and what is good enough."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["workload", "load"], "properties": {"kernels": {"type": "null"}}},
                {
                    "required": ["kernels"],
                    "properties": {"workload": {"type": "null"}, "load": {"type": "null"}},
                },
            ]
        }
    )

    name: Name
    """A short name of the scenario, such as long-context; result folders are named after it."""
    question: Annotated[str, Field(min_length=1, max_length=300)]
    """The question that the run answers; the first line of the report."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """The seed of everything random: the same seed sends the same requests at the same times."""
    engine: Engine = Engine()
    """Which engine serves, and how it is started or reached."""
    endpoint: Literal["completions", "chat"] = "completions"
    """Which API is used; completions sends token ids, so that lengths are exact without a tokenizer."""
    stream: bool = True
    """Whether answers come token by token."""
    token_counts: Literal["usage", "token_ids", "assumed"] = "usage"  # noqa: S105 - tokens of text
    """Where the number of tokens of an event comes from."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """More keys for the body of each request, such as temperature."""
    workload: WorkloadSpec | None = None
    """What is sent: prompts, answers and how they share."""
    load: Annotated[tuple[LoadItem, ...], Field(min_length=1, strict=False)] | None = None
    """When it is sent: stages, run in order, each measured on its own."""
    kernels: Kernels | None = None
    """Microbenchmarks of attention kernels, in place of workload and load."""
    warmup: Warmup | None = None
    """Load before the first measured stage, recorded but not counted."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """How many times the stages are run, or kernels measured, each time in a fresh process."""
    timeout: Duration = 600.0
    """How long one request may take."""
    workers: Annotated[int, Field(ge=1, le=256)] | None = None
    """How many processes send; chosen by the number of cores by default."""
    slo: Slo = Field(default_factory=dict)
    """What is good enough: limits by metric and statistic, such as ttft_p99: 5s."""
    price_per_hour: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    """What one NPU costs for an hour, in any currency; gives the cost of a million tokens."""

    @model_validator(mode="after")
    def _one_purpose(self) -> "Scenario":
        if self.kernels is not None and (self.workload is not None or self.load is not None):
            other = "load" if self.workload is None else "workload"
            raise refused(message("scenario.kernels_and_load", other=other))
        if self.kernels is None and (self.workload is None or self.load is None):
            missing = "workload" if self.workload is None else "load"
            raise refused(message("scenario.purpose_missing", missing=missing))
        return self

    @model_validator(mode="after")
    def _trace_has_times(self) -> "Scenario":
        kind = None if self.workload is None else self.workload.kind
        if kind not in (None, "trace") and any(stage.kind == "trace" for stage in self.stages):
            raise refused(message("scenario.trace_needs_times", kind=kind))
        return self

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of `load`, lists multiplied out."""
        return expand(self.load or ())

    @property
    def is_offline(self) -> bool:
        """Whether requests go to the engine's own `LLM.generate`, and not to a server."""
        return any(stage.kind == OFFLINE for stage in self.stages)


_TRUE, _FALSE = ("true", "on", "yes", "1"), ("false", "off", "no", "0")
# The switches of vLLM 0.23 to 0.32 and of the embedded engine, for where no interpreter can be asked.
SWITCHES = frozenset(
    """
    aggregate-engine-logging allow-credentials allow-deprecated-quantization async-scheduling
    cohere-is-reasoning-model cudagraph-metrics data-parallel-external-lb data-parallel-hybrid-lb
    data-parallel-multi-port-external-lb dcp-q-replicate disable-cascade-attn disable-chunked-mm-input
    disable-custom-all-reduce disable-fastapi-docs disable-frontend-multiprocessing
    disable-hybrid-kv-cache-manager disable-log-stats disable-nccl-for-dp-synchronization
    disable-sliding-window disable-uvicorn-access-log enable-auto-tool-choice enable-batch-sharded-sampling
    enable-chunked-prefill enable-cumem-allocator enable-dbo enable-elastic-ep enable-ep-weight-filter
    enable-eplb enable-expert-parallel enable-fault-tolerance enable-flash-late-interaction
    enable-flashinfer-autotune enable-force-include-usage enable-hc-sp enable-layerwise-nvtx-tracing
    enable-log-deltas enable-log-outputs enable-log-requests enable-logging-iteration-details enable-lora
    enable-mamba-cache-stochastic-rounding enable-mamba-shared-prefix-checkpoint enable-mfu-metrics
    enable-mixed-moe-lora-format enable-mm-embeds enable-moe-shared-loras enable-nccl-comm-suspend
    enable-offline-docs enable-per-request-metrics enable-prefix-caching enable-prompt-embeds
    enable-prompt-tokens-details enable-request-id-headers enable-return-routed-experts enable-scale-out
    enable-server-load-tracking enable-shm-tensor-arena enable-sleep-mode enable-ssl-refresh
    enable-tokenizer-info-endpoint enable-tower-connector-lora enable-trace-replay enforce-eager
    exclude-tools-when-tool-choice-none fail-on-environ-validation fully-sharded-loras grpc headless
    interleave-mm-strings jit-monitor-verbose kv-cache-metrics kv-sharing-fast-prefill language-model-only
    log-error-stack long-prefill-token-threshold-adaptive mm-device-do-normalize mm-encoder-only numa-bind
    ray-workers-use-nsight return-sampling-mask return-tokens-as-token-ids scheduler-reserve-full-isl
    skip-mm-profiling skip-tokenizer-init sleep-mode-offload-cudagraph specialize-active-lora
    swa-bounded-replay tokens-only trust-remote-code trust-request-chat-template trust-request-mm-kwargs
    use-fp64-gumbel use-replayssm use-tqdm-on-load
    """.replace("-", "_").split()
)


def switch_of(value: Any) -> bool | None:
    """What a value means for a switch: true, on, yes, 1, or their opposites; None where it means neither."""
    text = str(value).strip().lower()
    return True if text in _TRUE else False if text in _FALSE else None


def switched(args: Mapping[str, Any], switches: Collection[str] = SWITCHES) -> dict[str, Any]:
    """Flags with every switch as true or false; what means neither is left as it is."""
    return {name: _meant(value) if is_switch(name, switches) else value for name, value in args.items()}


def is_switch(name: str, switches: Collection[str] = SWITCHES) -> bool:
    """Whether a flag is a switch, or the `no_` form of one."""
    return name in switches or name.removeprefix("no_") in switches


def _meant(value: Any) -> Any:
    meant = switch_of(value)
    return value if meant is None or value is None else meant


def neither(value: Any) -> Message:
    """What is wrong with a value that a switch cannot have."""
    return message("scenario.not_a_switch", value=show(value))
