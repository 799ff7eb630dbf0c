"""The workload of a scenario: kinds of prompts and answers, with lengths as numbers or distributions."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, SerializeAsAny, Tag, model_validator

from harness.messages import message
from harness.plugins import WORKLOADS, load_plugin
from harness.scenario.base import Duration, FileModel, Many, NonEmptyText, one_key, refused, with_plugins
from harness.scenario.request_kinds import Adapters, Models, Priority, Structured, Tools, Weight, hold_weights

MOST_TOKENS = 10_000_000

TokenCount = Annotated[int, Field(ge=1, le=MOST_TOKENS)]


class Normal(FileModel):
    """A normal distribution, rounded, kept within [min, max]."""

    mean: Annotated[float, Field(gt=0, le=MOST_TOKENS)]
    """The mean, before bounds."""
    sd: Annotated[float, Field(ge=0, le=MOST_TOKENS)]
    """The standard deviation, before bounds."""
    min: TokenCount = 1
    """The least value; lower draws become it."""
    max: TokenCount | None = None
    """The largest value; higher draws become it."""

    @model_validator(mode="after")
    def _ordered(self) -> "Normal":
        _check_bounds(self.min, self.max)
        return self


class LogNormal(FileModel):
    """A log-normal distribution, rounded, kept within [min, max]."""

    median: Annotated[float, Field(gt=0, le=MOST_TOKENS)]
    """The median, before bounds."""
    sigma: Annotated[float, Field(ge=0, le=5)]
    """The standard deviation of the logarithm: 0.5 is moderate, 1 has a long tail."""
    min: TokenCount = 1
    """The least value; lower draws become it."""
    max: TokenCount | None = None
    """The largest value; higher draws become it."""

    @model_validator(mode="after")
    def _ordered(self) -> "LogNormal":
        _check_bounds(self.min, self.max)
        return self


class WeightedChoice(FileModel):
    """One of these values, by weight."""

    values: Many[TokenCount]
    """The values to choose from."""
    weights: Many[Weight] | None = None
    """How often each value is chosen, relative to the others; all alike where none are given."""

    @model_validator(mode="after")
    def _matching(self) -> "WeightedChoice":
        hold_weights(self.values, self.weights)
        return self


class UniformItem(FileModel):
    """Whole numbers of [a, b], both included, all equally likely."""

    uniform: Annotated[tuple[TokenCount, TokenCount], Field(strict=False)]
    """The least and the largest value, such as [64, 512]."""

    @model_validator(mode="after")
    def _ordered(self) -> "UniformItem":
        low, high = self.uniform
        if low > high:
            raise refused(message("scenario.uniform_reversed", low=low, high=high))
        return self


class NormalItem(FileModel):
    """A normal distribution of whole numbers."""

    normal: Normal
    """Mean, sd, min and max."""


class LogNormalItem(FileModel):
    """A log-normal distribution of whole numbers."""

    lognormal: LogNormal
    """Median, sigma, min and max."""


class ChoiceItem(FileModel):
    """A choice of whole numbers."""

    choice: WeightedChoice
    """Values and their weights."""


def _check_bounds(low: int, high: int | None) -> None:
    if high is not None and low > high:
        raise refused(message("scenario.min_above_max", low=low, high=high))


def _kind_of(data: Any) -> str:
    if isinstance(data, FileModel):
        return next(iter(type(data).model_fields))
    return "a whole number" if isinstance(data, int | float) and not isinstance(data, bool) else one_key(data)


CountSpec = Annotated[
    Annotated[TokenCount, Tag("a whole number")]
    | Annotated[UniformItem, Tag("uniform")]
    | Annotated[NormalItem, Tag("normal")]
    | Annotated[LogNormalItem, Tag("lognormal")]
    | Annotated[ChoiceItem, Tag("choice")],
    Discriminator(_kind_of),
]
"""A whole number, or a distribution of them."""


def bounds(count: CountSpec) -> tuple[int, int | None]:
    """The least and the largest value that can be drawn; None where there is no largest."""
    if isinstance(count, int):
        return count, count
    if isinstance(count, UniformItem):
        return count.uniform
    if isinstance(count, ChoiceItem):
        return min(count.choice.values), max(count.choice.values)
    body = count.normal if isinstance(count, NormalItem) else count.lognormal
    return body.min, body.max


def at_most(count: CountSpec) -> int:
    """The largest value that can be drawn, or the middle of a distribution that has no largest."""
    low, high = bounds(count)
    if high is not None:
        return high
    if isinstance(count, NormalItem):
        return max(round(count.normal.mean), low)
    return max(round(count.lognormal.median) if isinstance(count, LogNormalItem) else low, low)


WORKLOAD_KINDS = ("synthetic", "conversation", "dataset", "trace", "documents")
TRACE_FORMATS = ("mooncake", "bailian", "burstgpt", "azure")
DATASET_FORMATS = ("sharegpt", "jsonl")

TokenId = Annotated[int, Field(ge=0, le=MOST_TOKENS)]


class Prefix(FileModel):
    """The beginning of prompts that requests share."""

    tokens: TokenCount | None = None
    """How many first tokens are the same for all requests of a group; instead of hit_rate."""
    groups: TokenCount = 1
    """How many different beginnings there are; requests take one at random."""
    hit_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of all prompt tokens that the prefix cache is to find, such as 0.9; primed before each stage."""
    block_size: TokenCount | None = None
    """The tokens of a block of the engine's cache, for hit_rate; by default what the engine says."""

    @model_validator(mode="after")
    def _one_measure(self) -> "Prefix":
        if (self.tokens is None) == (self.hit_rate is None):
            raise refused(message("scenario.prefix_tokens_or_rate"))
        if self.block_size is not None and self.hit_rate is None:
            raise refused(message("scenario.prefix_block_without_rate"))
        return self


REAL, RANDOM, OF_FILE = "real", "random", "file"


class TextFile(FileModel):
    """Text of a file, cut and joined to the lengths that are asked for."""

    path: NonEmptyText
    """The file, looked up from the scenario file's folder: the prompts of a data set (.json, .jsonl), or plain text."""


def _text_kind(value: Any) -> str:
    return "file" if isinstance(value, dict | TextFile) else "named"


Text = Annotated[
    Annotated[Literal["real", "random"], Tag("named")] | Annotated[TextFile, Tag("file")], Discriminator(_text_kind)
]


class Images(FileModel):
    """Images that each request of the chat endpoint carries, made for it and sent inside it (PNG, base64)."""

    count: CountSpec = 1
    """How many images a request has: a whole number or a distribution."""
    size: Annotated[tuple[CountSpec, CountSpec], Field(strict=False)]
    """Width and height in pixels, such as [640, 480]; each a whole number or a distribution."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of images that come again and again, which an engine may keep; the others are all different."""
    pool: Annotated[int, Field(ge=1, le=10_000)] = 16
    """How many different images the shared ones are taken from."""


class _Requests(FileModel):
    """Workloads of the harness's own, whose requests may be of several kinds."""

    adapters: Adapters | None = None
    """LoRA adapters that requests name in place of the model."""
    models: Models | None = None
    """Several models of one server, of which a request names one."""
    priority: Priority | None = None
    """Classes of requests by vLLM's priority."""
    images: Images | None = None
    """Images that each request carries, on the chat endpoint."""
    structured: Structured | None = None
    """Answers that the engine holds to a form."""
    tools: Tools | None = None
    """Tools that requests offer, on the chat endpoint."""


REQUEST_KEYS = tuple(_Requests.model_fields)


class _Random(_Requests):
    """Workloads whose contents are drawn at random."""

    text: Text | None = None
    """What prompts say: real (it ships), {path: FILE}, or random; real by default where the engine speculates."""
    vocabulary: Annotated[tuple[TokenId, TokenId], Field(strict=False)] = (256, 4000)
    """The range [first, end) of token ids that prompts are drawn from; by default ordinary words."""

    @model_validator(mode="after")
    def _wide(self) -> Any:
        low, high = self.vocabulary
        if high - low < 16:
            raise refused(message("scenario.vocabulary_narrow", low=low, high=high))
        return self


class SyntheticWorkload(_Random):
    """Random prompts of exact lengths."""

    kind: Literal["synthetic"]
    """The kind of work: synthetic."""
    input_tokens: CountSpec
    """The length of a prompt, prefix included: a whole number or a distribution."""
    output_tokens: CountSpec
    """The length of an answer: a whole number or a distribution."""
    prefix: Prefix | None = None
    """The beginning that prompts share."""


class Exponential(FileModel):
    """Exponentially distributed with this mean."""

    exponential: Duration
    """The mean, such as 5s."""


def _think_kind(data: Any) -> str:
    return "exponential" if isinstance(data, dict | Exponential) else "a duration"


ThinkTime = Annotated[
    Annotated[Duration, Tag("a duration")] | Annotated[Exponential, Tag("exponential")],
    Discriminator(_think_kind),
]


class ConversationWorkload(_Random):
    """Sessions of several turns; each turn sends the whole history and a new message."""

    kind: Literal["conversation"]
    """The kind of work: conversation."""
    turns: CountSpec
    """The number of turns of a session: a whole number or a distribution."""
    input_tokens: CountSpec
    """The length of each new message: a whole number or a distribution."""
    output_tokens: CountSpec
    """The length of an answer: a whole number or a distribution."""
    prefix: Prefix | None = None
    """The system prompt that sessions share, before the first message."""
    think_time: ThinkTime | None = None
    """The pause between an answer and the next message: a duration, or {exponential: 5s}; none by default."""


class DatasetWorkload(_Requests):
    """Prompts from a file: ShareGPT's JSON, or JSONL with `prompt` and `output_tokens`."""

    kind: Literal["dataset"]
    """The kind of work: dataset."""
    path: NonEmptyText
    """The file, looked up from the scenario file's folder."""
    format: Literal["sharegpt", "jsonl"] | None = None
    """The file's format; recognised by its content where not given."""
    output_tokens: CountSpec | None = None
    """The length of an answer, in place of the file's own."""
    shuffle: bool = False
    """Whether prompts are taken in random order."""
    limit: TokenCount | None = None
    """How many prompts are read; all by default."""


class TraceWorkload(_Random):
    """Lengths, sharing and arrival times recorded elsewhere."""

    kind: Literal["trace"]
    """The kind of work: trace."""
    path: NonEmptyText
    """The file, looked up from the scenario file's folder."""
    format: Literal["mooncake", "bailian", "burstgpt", "azure"] | None = None
    """The file's format; recognised by its content where not given."""
    limit: TokenCount | None = None
    """How many requests are read; all by default."""


class DocumentsWorkload(_Random):
    """Random documents for the endpoints embeddings, rerank and score, whose answers have no tokens."""

    kind: Literal["documents"]
    """The kind of work: documents."""
    tokens: CountSpec
    """The length of a document: a whole number or a distribution."""
    count: CountSpec = 1
    """How many documents a request has: a whole number or a distribution."""
    query_tokens: CountSpec | None = None
    """The length of the query that documents are held against, on rerank and score."""
    prefix: Prefix | None = None
    """The beginning that documents share, such as an instruction; on embeddings."""


def _workload_kind(data: Any) -> str:
    return str(data.get("kind") or "") if isinstance(data, dict) else ""


def _model_of(kind: str) -> Any:
    return load_plugin(WORKLOADS, kind).options


BuiltInWorkload = Annotated[
    SyntheticWorkload | ConversationWorkload | DatasetWorkload | TraceWorkload | DocumentsWorkload,
    Field(discriminator="kind"),
]
WorkloadSpec = Annotated[
    SerializeAsAny[BuiltInWorkload], with_plugins(WORKLOADS, WORKLOAD_KINDS, _workload_kind, _model_of)
]
