"""The keys of a stage of summary.json that readers rely on."""

from msgspec import Struct

from harness.results.file_schemas import (
    Count,
    Interval,
    LoadSchema,
    Number,
    Object,
    Place,
    Positive,
    Time,
)


class MetricSchema(Struct, frozen=True):
    """Values in short, as each metric of a stage has them."""

    n: Count | None = None
    mean: Number | None = None
    std: Number | None = None
    min: Number | None = None
    p50: Number | None = None
    p90: Number | None = None
    p95: Number | None = None
    p99: Number | None = None
    max: Number | None = None
    ci95: dict[str, Interval] | None = None
    needed_s: dict[str, Number] | None = None
    effective_n: Number | None = None
    invalid: list[str] = []


class WindowSchema(Struct, frozen=True):
    """What of a stage was measured."""

    start_s: Number | None = None
    end_s: Number | None = None
    method: str | None = None
    steady: bool | None = None
    text: str | None = None


class RatesWindowSchema(Struct, frozen=True):
    """What of a stage its rates count."""

    start_ns: Time | None = None
    end_ns: Time | None = None
    window_s: Number | None = None
    text: str | None = None
    requests: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    events: Count | None = None


class ObjectiveOutcomeSchema(Struct, frozen=True):
    """What became of one limit."""

    metric: str | None = None
    limit: Number | None = None
    value: Number | None = None
    met: bool | None = None
    failed_counted: Count | None = None
    unsure: str = ""


class ConcurrencySchema(Struct, frozen=True):
    """How many were in flight."""

    mean: Number | None = None
    max: Number | None = None


class ClientErrorSchema(Struct, frozen=True):
    """By how much the client may have been wrong."""

    clock: str | None = None
    bounds: dict[str, dict[str, Number | None] | None] | None = None
    first_exact: Number | None = None
    blurred_share: Number | None = None
    late_p50_s: Number | None = None
    late_p99_s: Number | None = None


class PeerSchema(Struct, frozen=True):
    """What another tool would have printed: a latency (s) under its name, or its output throughput."""

    tool: str
    definition: str
    definition_text: str = ""
    name: str | None = None
    mean: Number | None = None
    p99: Number | None = None
    output_token_rate: Number | None = None


class ServerSplitSchema(Struct, frozen=True):
    """The server's own split of the requests of a stage (s), and what of our time to first token lies outside."""

    n: Count
    queue: MetricSchema
    prefill: MetricSchema
    outside: MetricSchema


class PrefixSchema(Struct, frozen=True):
    """Shares of the prompts' tokens that prefix caches held: what an unbounded one would, what the engines did."""

    theoretical_hit_rate: Number | None = None
    measured_hit_rate: Number | None = None
    block_size: Positive | None = None
    target: Number | None = None
    held: bool | None = None
    primed: Count | None = None
    unprimed: Count | None = None
    engines: dict[str, Number] | None = None


class GaugeSchema(Struct, frozen=True):
    """What a value of an engine was on average and at most."""

    mean: Number
    max: Number


class StageEngineSchema(Struct, frozen=True):
    """One engine of a stage."""

    name: str
    role: str
    process: str | None = None
    devices: list[Count] | None = None
    running: GaugeSchema | None = None
    waiting: GaugeSchema | None = None
    kv_use: GaugeSchema | None = None
    preemptions: Number | None = None
    requests: Number | None = None
    prompt_tokens: Number | None = None
    generation_tokens: Number | None = None
    span_s: Number | None = None
    prefix_hit_rate: Number | None = None
    kv_transfer: dict[str, Number] | None = None
    kv_store: dict[str, Number] | None = None
    ep_imbalance: Number | None = None
    npu: dict[str, Number] | None = None
    cpu_cores: Number | None = None


class LagSchema(Struct, frozen=True):
    """An engine whose requests take longer than the others' for no more work."""

    engine: str
    role: str
    others_token_s: Number
    work_share: Number
    token_s: Number | None = None


class AcceptanceSchema(Struct, frozen=True):
    """What an engine drafted and accepted in a stage; rates are null where nothing was drafted."""

    drafts: Count
    draft_tokens: Count
    accepted_tokens: Count
    acceptance_rate: Number | None = None
    mean_accepted_length: Number | None = None
    by_position: list[Number] = []
    ci95: dict[str, Interval] = {}


class RequestAcceptanceSchema(AcceptanceSchema, frozen=True, kw_only=True):
    """The same of `n` single requests, with quantiles over them."""

    n: Count
    quantiles: dict[str, dict[str, Number]] = {}


class SpeculationSchema(AcceptanceSchema, frozen=True):
    """The same of the whole server, of each of its engines where there are several, and of single requests."""

    engines: dict[str, AcceptanceSchema] = {}
    requests: RequestAcceptanceSchema | None = None


class FormsSchema(Struct, frozen=True):
    """Answers that were held to a form, and those of them that keep it."""

    held: Count
    kept: Count


class ClassSchema(Struct, frozen=True):
    """The requests of a stage that have one trait in common."""

    by: str
    name: str
    sent: Count
    completed: Count
    failed: Count
    request_rate: Number | None = None
    output_token_rate: Number | None = None
    ttft: MetricSchema | None = None
    ttft_user: MetricSchema | None = None
    tpot: MetricSchema | None = None
    e2e: MetricSchema | None = None
    e2e_user: MetricSchema | None = None
    forms: FormsSchema | None = None


class StageSchema(Struct, frozen=True):
    """A stage of summary.json."""

    ttft_answer: MetricSchema | None = None
    ttft_answer_user: MetricSchema | None = None
    reasoning_tokens: Count | None = None
    input_token_rate: Number | None = None
    document_rate: Number | None = None
    documents: Count | None = None
    image_tokens: Count | None = None
    sent_bytes: Count | None = None
    forms: FormsSchema | None = None
    classes: list[ClassSchema] | None = None

    index: Place = 0
    repeat: Place = 0
    label: str = ""
    load: LoadSchema | None = None
    cut: bool | None = None
    requests: dict[str, Count] | None = None
    errors: dict[str, Count] | None = None
    window_s: Number | None = None
    window: WindowSchema | None = None
    rates_window: RatesWindowSchema | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    offered_rate: Number | None = None
    request_rate: Number | None = None
    output_token_rate: Number | None = None
    arrived_token_rate: Number | None = None
    total_token_rate: Number | None = None
    event_rate: Number | None = None
    goodput: Number | None = None
    rates_ci95: dict[str, Interval] | None = None
    slo_met: bool | None = None
    slo: dict[str, ObjectiveOutcomeSchema] | None = None
    concurrency: ConcurrencySchema | None = None
    merged_share: Number | None = None
    client_error: ClientErrorSchema | None = None
    ttft: MetricSchema | None = None
    ttft_user: MetricSchema | None = None
    tpot: MetricSchema | None = None
    itl: MetricSchema | None = None
    chunk_gap: MetricSchema | None = None
    e2e: MetricSchema | None = None
    e2e_user: MetricSchema | None = None
    send_lag: MetricSchema | None = None
    queue_wait: MetricSchema | None = None
    connect: MetricSchema | None = None
    little: dict[str, Number | None] | None = None
    peers: list[PeerSchema] | None = None
    energy: Object | None = None
    efficiency: Object | None = None
    engines: list[StageEngineSchema] | None = None
    imbalance: dict[str, dict[str, Number]] | None = None
    lagging: list[LagSchema] | None = None
    full_side: str | None = None
    server_split: ServerSplitSchema | None = None
    prefix: PrefixSchema | None = None
    speculation: SpeculationSchema | None = None
