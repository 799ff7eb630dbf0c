"""What the scheduler works with: limits, requests, steps, counters, and the times of prefills.

Names and meanings are those of vLLM; no time stands here but counts of steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from harness.simulator.engine_config import DEFAULT_VERSION
from harness.simulator.speculation import Accept, Speculation

Draw = Callable[[int, int], Sequence[int]]


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What bounds a step; the names and meanings of `vllm serve` flags.

    `num_blocks` counts the null block, as vLLM does. `token_budget` is
    max_num_scheduled_tokens where given, else max_num_batched_tokens. `draft_tokens` are those a running request
    brings along at most, `lookahead` the slots it holds beyond them, and with `drop_last_hit` the last block of a
    prefix hit is computed again, as for drafting layers. `prefill_interval` is how many steps lie between
    two that prefill, as long as any request decodes: under 0.33 counted here, or where the engine is one of several
    that are `coordinated`, by whoever calls `schedule`. No chunk ends closer to a prompt's end than
    `prefill_lookahead` tokens (of drafting layers). `max_loras` 0: no adapters.
    """

    block_size: int
    num_blocks: int
    max_num_seqs: int
    token_budget: int
    max_model_len: int
    chunked_prefill: bool = True
    prefix_caching: bool = True
    long_prefill_token_threshold: int = 0
    adaptive_threshold: bool = False
    max_num_active_seqs: int | None = None
    reserve_full_prompt: bool = True
    watermark: float = 0.0
    by_priority: bool = False
    prefill_interval: int = 1
    coordinated: bool = False
    prefill_lookahead: int = 0
    max_loras: int = 0
    engine_version: str = DEFAULT_VERSION
    draft_tokens: int = 0
    lookahead: int = 0
    drop_last_hit: bool = False

    def drafting(self, speculation: Speculation) -> "SchedulerLimits":
        """The same with speculation."""
        own = speculation.has_layer
        return replace(
            self, draft_tokens=speculation.tokens, lookahead=speculation.tokens if own else 0, drop_last_hit=own
        )


@dataclass(slots=True, eq=False)
class Request:
    """One request inside the scheduler; `draw(a, b)` gives its output tokens at positions a … b-1.

    Of two priorities the lower one goes first; `order` numbers requests as they came. `adapter` is the
    LoRA adapter that it names, empty for the model itself. `passed` says that others could be let in before it, as it
    could not. The KV cache of the prompt of a `remote` one is fetched from another engine, and of a `kept` one the
    blocks stay for another.
    """

    id: str
    prompt: Sequence[int]
    max_tokens: int
    draw: Draw
    accept: Accept | None = None  # of draft tokens; None: of none
    priority: int = 0
    adapter: str = ""
    order: int = 0
    num_tokens: int = 0  # prompt and output so far
    stop_at: int = 0  # num_tokens at which it is finished
    computed: int = 0  # tokens whose KV is in the cache, those of the present step included
    taken: int = 0  # tokens scheduled in the present step
    drafts: int = 0  # draft tokens that wait for its next step
    verified: int = 0  # draft tokens among those taken
    padded: bool = False  # these are blanks that fill up a decode
    gained: int = 0  # tokens sampled in its last step; 0 while its prompt is computed in parts
    drafted: int = 0  # draft tokens that were verified for it
    accepted: list[int] = field(default_factory=list)  # steps that verified a draft, by how many tokens were accepted
    blocks: list[int] = field(default_factory=list)
    capacity: int = 0  # tokens that its blocks hold
    remembered: int = 0  # its first blocks that are in the prefix cache
    next_full: int = 0  # computed tokens at which the next block is remembered
    hashes: list[int] = field(default_factory=list)
    hit: int = 0  # tokens found in the cache at the last admission
    first_hit: int = 0  # the same at the first
    preemptions: int = 0
    running: bool = False
    finished: bool = False
    passed: bool = False
    remote: bool = False
    kept: bool = False
    fetched: bool = False  # its KV cache is here

    @property
    def rank(self) -> tuple[int, int]:
        """Its place among others by priority: the lowest goes first, and is preempted last."""
        return self.priority, self.order


@dataclass(slots=True)
class SchedulerStep:
    """What one step computes. `decodes` is every request with one token, the rest are `prefills`.

    `decode_context` sums the tokens already in the cache of the decodes, `draft_tokens` those that they verify beside
    the one; `prefills` holds (new tokens, tokens before them) of the others. `prefilled` says that one which was
    preempted later in the step had been one of them. `fetching` have blocks now, for a KV cache that is to be fetched.
    """

    scheduled: list[Request] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)
    decodes: int = 0
    decode_context: int = 0
    draft_tokens: int = 0
    prefills: list[tuple[int, int]] = field(default_factory=list)
    prefilled: bool = False
    fetching: list[Request] = field(default_factory=list)
    run_on: int = 0  # requests scheduled that ran before
    pads: bool = False  # whether new decodes are filled up to the width of the others

    def add(self, request: Request) -> None:
        """One that is let in with the tokens that it takes."""
        self.scheduled.append(request)
        self.admitted.append(request)
        self.draft_tokens += request.verified
        before = request.computed - request.taken
        if request.taken == 1 or request.verified:
            self.decodes += 1
            self.decode_context += before
        else:
            self.prefills.append((request.taken, before))

    def count(self) -> None:
        """Sum up anew what is scheduled."""
        decodes = [request for request in self.scheduled if request.taken == 1 or request.verified]
        others = [request for request in self.scheduled if request not in decodes]
        self.prefills = [(request.taken, request.computed - request.taken) for request in others]
        self.decode_context = sum(request.computed - request.taken for request in decodes)
        self.draft_tokens = sum(request.verified for request in decodes)
        self.decodes = len(decodes)

    @property
    def tokens(self) -> int:
        """Tokens computed in this step."""
        return self.decodes + self.draft_tokens + sum(new for new, _ in self.prefills)


@dataclass(slots=True)
class Counters:
    """What vLLM counts on /metrics, since the start."""

    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_by_position: list[int] = field(default_factory=list)


@dataclass(slots=True)
class PrefillCadence:
    """When a step last prefilled. `bound`: the last step that might prefill left requests that could have come in."""

    interval: int
    steps: int = 0
    last: int = field(init=False)
    bound: bool = False

    def __post_init__(self) -> None:
        self.last = -self.interval

    @property
    def is_early(self) -> bool:
        """Whether the next step comes sooner than the interval after the last one that prefilled."""
        return self.steps + 1 - self.last < self.interval

    def executed(self, step: SchedulerStep) -> None:
        """A step has something to compute."""
        self.steps += 1
        begun = any(request.hit < request.num_tokens - 1 for request in step.admitted)
        run_on = step.scheduled[: len(step.scheduled) - len(step.admitted)]
        if begun or step.prefilled or not all(request.gained for request in run_on):
            self.last = self.steps
