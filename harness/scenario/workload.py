"""How is the work written in a scenario: what prompts, how long, and how they share?"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from harness.scenario.base import Duration, Part, Text
from harness.scenario.distributions import MOST_TOKENS, Count

WORKLOAD_KINDS = ("synthetic", "conversation", "dataset", "trace")
TRACE_FORMATS = ("mooncake", "bailian", "burstgpt", "azure")
DATASET_FORMATS = ("sharegpt", "jsonl")

TokenId = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
Whole = Annotated[int, Field(ge=1, le=MOST_TOKENS)]


class Prefix(Part):
    """The beginning of prompts that requests share."""

    tokens: Whole
    """How many first tokens are the same for all requests of a group."""
    groups: Whole = 1
    """How many different beginnings there are; requests take one at random."""


class _Random(Part):
    """Workloads whose contents are drawn at random."""

    vocabulary: Annotated[tuple[TokenId, TokenId], Field(strict=False)] = (256, 4000)
    """The range [first, end) of token ids that prompts are drawn from; by default ordinary words."""

    @model_validator(mode="after")
    def _wide(self) -> Any:
        low, high = self.vocabulary
        if high - low < 16:
            raise ValueError(f"vocabulary [{low}, {high}] is too narrow; expected [first, end) at least 16 apart")
        return self


class Synthetic(_Random):
    """Random prompts of exact lengths."""

    kind: Literal["synthetic"]
    """The kind of work: synthetic."""
    input_tokens: Count
    """The length of a prompt, prefix included: a whole number or a distribution."""
    output_tokens: Count
    """The length of an answer: a whole number or a distribution."""
    prefix: Prefix | None = None
    """The beginning that prompts share."""


class Exponential(Part):
    """Exponentially distributed with this mean."""

    exponential: Duration
    """The mean, such as 5s."""


def _think_kind(data: Any) -> str:
    return "exponential" if isinstance(data, dict | Exponential) else "a duration"


ThinkTime = Annotated[
    Annotated[Duration, Tag("a duration")] | Annotated[Exponential, Tag("exponential")],
    Discriminator(_think_kind),
]


class Conversation(_Random):
    """Sessions of several turns; each turn sends the whole history and a new message."""

    kind: Literal["conversation"]
    """The kind of work: conversation."""
    turns: Count
    """The number of turns of a session: a whole number or a distribution."""
    input_tokens: Count
    """The length of each new message: a whole number or a distribution."""
    output_tokens: Count
    """The length of an answer: a whole number or a distribution."""
    prefix: Prefix | None = None
    """The system prompt that sessions share, before the first message."""
    think_time: ThinkTime | None = None
    """The pause between an answer and the next message: a duration, or {exponential: 5s}; none by default."""


class Dataset(Part):
    """Prompts from a file: ShareGPT's JSON, or JSONL with `prompt` and `output_tokens`."""

    kind: Literal["dataset"]
    """The kind of work: dataset."""
    path: Text
    """The file, looked up from the scenario file's folder."""
    format: Literal["sharegpt", "jsonl"] | None = None
    """The file's format; recognised by its content where not given."""
    output_tokens: Count | None = None
    """The length of an answer, in place of the file's own."""
    shuffle: bool = False
    """Whether prompts are taken in random order."""
    limit: Whole | None = None
    """How many prompts are read; all by default."""


class TraceWork(_Random):
    """Lengths, sharing and arrival times recorded elsewhere."""

    kind: Literal["trace"]
    """The kind of work: trace."""
    path: Text
    """The file, looked up from the scenario file's folder."""
    format: Literal["mooncake", "bailian", "burstgpt", "azure"] | None = None
    """The file's format; recognised by its content where not given."""
    limit: Whole | None = None
    """How many requests are read; all by default."""


Workload = Annotated[Synthetic | Conversation | Dataset | TraceWork, Field(discriminator="kind")]
