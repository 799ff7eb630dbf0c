"""The scheduler: which tokens vLLM computes in the next step.

The rules of vLLM V1 (0.32, `v1/core/sched/scheduler.py` and `v1/core/kv_cache_manager.py`):
running requests first, in order of admission; then waiting ones, strictly first come first
served; a token budget a step; blocks for the whole prompt at hand before a request is let in;
the last admitted request preempted and recomputed where blocks run out. Time plays no part here.
With speculation a running request takes its draft tokens along, and those that are rejected are taken back.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from harness.simulator.memory import BlockPool
from harness.simulator.speculation import Accept, Speculation

Draw = Callable[[int, int], Sequence[int]]


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What bounds a step; the names and meanings of `vllm serve` flags.

    `num_blocks` counts the null block, as vLLM does. `token_budget` is
    max_num_scheduled_tokens where given, else max_num_batched_tokens. `draft_tokens` are those a running request
    brings along at most, `lookahead` the slots it holds beyond them, and with `drop_last_hit` the last block of a
    prefix hit is computed again, as for drafting layers.
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
    """One request inside the scheduler; `draw(a, b)` gives its output tokens at positions a … b-1."""

    id: str
    prompt: Sequence[int]
    max_tokens: int
    draw: Draw
    accept: Accept | None = None  # of draft tokens; None: of none
    num_tokens: int = 0  # prompt and output so far
    stop_at: int = 0  # num_tokens at which it is finished
    computed: int = 0  # tokens whose KV is in the cache, those of the present step included
    taken: int = 0  # tokens scheduled in the present step
    drafts: int = 0  # draft tokens that wait for its next step
    verified: int = 0  # draft tokens among those taken
    padded: bool = False  # these are blanks that fill up a decode
    gained: int = 0  # tokens sampled in its last step; 0 while its prompt is computed in parts
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
    adapter: str = ""  # the LoRA adapter that it names, empty for the model itself
    priority: int = 0  # the lowest first, where the engine schedules by priority


@dataclass(slots=True)
class SchedulerStep:
    """What one step computes. `decodes` is every request with one token, the rest are `prefills`.

    `decode_context` sums the tokens already in the cache of the decodes, `draft_tokens` those that they verify beside
    the one; `prefills` holds (new tokens, tokens before them) of the others.
    """

    scheduled: list[Request] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)
    decodes: int = 0
    decode_context: int = 0
    draft_tokens: int = 0
    prefills: list[tuple[int, int]] = field(default_factory=list)

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


class Scheduler:
    """Requests that wait and run, and the blocks they hold. `schedule`, then `complete`, step by step."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self.pool = BlockPool(limits.num_blocks, caching=limits.prefix_caching)
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.counters = Counters(accepted_by_position=[0] * limits.draft_tokens)
        self._watermark = int(limits.watermark * limits.num_blocks)
        self._max_running = min(limits.max_num_seqs, limits.max_num_active_seqs or limits.max_num_seqs)

    def add(self, request: Request) -> None:
        """Queue a request behind the others."""
        request.num_tokens = len(request.prompt)
        request.stop_at = min(request.num_tokens + request.max_tokens, self.limits.max_model_len)
        self.waiting.append(request)

    def abort(self, request: Request) -> None:
        """Take a request out wherever it is; the present step may still hold it."""
        if request.finished:
            return
        if request.running:
            self.running.remove(request)
            self._free(request)
        else:
            self.waiting.remove(request)
        request.finished = True

    def schedule(self) -> SchedulerStep:
        """Choose the tokens of the next step and give them blocks."""
        step = SchedulerStep()
        cap = self._long_prefill_cap()
        budget = self._run_on(step, cap)
        if not step.preempted and self.waiting:
            self._admit(step, budget, cap)
        return step

    def complete(self, step: SchedulerStep) -> tuple[list[Request], list[Request]]:
        """End the step: the requests that sampled tokens (`gained`), and those of them that are finished."""
        sampled, finished, drafts = [], [], self.limits.draft_tokens
        for request in step.scheduled:
            if request.computed < request.num_tokens or request.finished:
                continue
            request.gained = self._verify(request) if request.verified else 1
            request.num_tokens += request.gained
            if drafts:
                request.drafts = drafts
            sampled.append(request)
            if request.num_tokens >= request.stop_at:
                request.gained -= request.num_tokens - request.stop_at
                request.num_tokens = request.stop_at
                finished.append(request)
        if finished:
            self._retire(finished)
        return sampled, finished

    def _verify(self, request: Request) -> int:
        """Take the rejected draft tokens back; the tokens gained: the accepted ones and one more."""
        accepted = 0
        if request.accept is not None and not request.padded:
            accepted = request.accept(request.num_tokens, request.verified)
        request.computed -= request.verified - accepted
        counters = self.counters
        counters.drafts += 1
        counters.draft_tokens += request.verified
        for position in range(accepted):
            counters.accepted_by_position[position] += 1
        return accepted + 1

    def _retire(self, finished: list[Request]) -> None:
        for request in finished:
            self._free(request)
            request.finished = True
        self.running = [request for request in self.running if not request.finished]

    def _long_prefill_cap(self) -> int:
        limits, eligible = self.limits, len(self.running) + len(self.waiting)
        cap = limits.long_prefill_token_threshold
        if cap <= 0 or eligible <= 1:
            return 0
        return max(cap, limits.token_budget // eligible) if limits.adaptive_threshold else cap

    def _run_on(self, step: SchedulerStep, cap: int) -> int:
        """Tokens for the running requests in order; the budget that is left."""
        running, scheduled, prefills = self.running, step.scheduled, step.prefills
        budget, longest = self.limits.token_budget, self.limits.max_model_len - 1
        drafting, lookahead = self.limits.draft_tokens > 0, self.limits.lookahead
        decodes = context = index = 0
        while index < len(running) and budget > 0:
            request = running[index]
            before = request.computed
            new = request.num_tokens - before
            if drafting:
                new += request.drafts
            if new != 1:
                new = _chunk(new, cap, min(budget, longest - before))
                if new <= 0:
                    index += 1
                    continue
            after = before + new
            slots = min(after + lookahead, longest + 1) if lookahead else after
            if slots > request.capacity and not self._grow(request, slots, step):
                break
            request.computed = after
            if after >= request.next_full:
                self._remember(request)
            scheduled.append(request)
            request.taken = new
            verified = _take_drafts(request, step) if drafting else 0
            if new == 1 or verified:
                decodes += 1
                context += before
            else:
                prefills.append((new, before))
            budget -= new
            index += 1
        step.decodes, step.decode_context = decodes, context
        return budget

    def _grow(self, request: Request, tokens: int, step: SchedulerStep) -> bool:
        """Blocks for `tokens`, preempting from the tail; False where the request itself had to go."""
        need = -(-tokens // self.limits.block_size) - len(request.blocks)
        while need > self.pool.free:
            victim = self.running.pop()
            self._preempt(victim)
            step.preempted.append(victim)
            if victim is request:
                return False
        self._give(request, need)
        return True

    def _admit(self, step: SchedulerStep, budget: int, cap: int) -> None:
        running = len(step.scheduled)
        pads = self.limits.draft_tokens > 0 and all(request.gained for request in step.scheduled)
        while budget > 0 and self.waiting and len(self.running) < self._max_running:
            request = self.waiting[0]
            cached = self._cached_prefix(request)
            hit = len(cached) * self.limits.block_size
            new = request.num_tokens - hit
            padding = self._padding(hit) if pads and new == 1 and (running or hit) else 0
            if padding and new + padding > budget:
                return
            new += padding
            if 0 < cap < new:
                new = cap
            if not self.limits.chunked_prefill and new > budget:
                return
            new = min(new, budget)
            if not self._fits(request, cached, hit + new + self.limits.lookahead):
                return
            self._start(request, cached, new)
            request.verified, request.padded = padding, padding > 0
            step.draft_tokens += padding
            budget -= new
            step.scheduled.append(request)
            step.admitted.append(request)
            if new == 1 or padding:
                step.decodes += 1
                step.decode_context += hit
            else:
                step.prefills.append((new, hit))

    def _padding(self, computed: int) -> int:
        """Blank draft tokens that make a new decode as wide as the others, where its context has room for them."""
        blanks = self.limits.draft_tokens
        return blanks if computed + 1 + blanks < self.limits.max_model_len else 0

    def _cached_prefix(self, request: Request) -> list[int]:
        """Remembered blocks of its first tokens; the last token is always computed anew."""
        cached: list[int] = []
        if not self.limits.prefix_caching:
            return cached
        for index in range((request.num_tokens - 1) // self.limits.block_size):
            block = self.pool.find(self._hash(request, index))
            if block is None:
                break
            cached.append(block)
        if cached and self.limits.drop_last_hit:
            cached.pop()
        return cached

    def _fits(self, request: Request, cached: list[int], tokens: int) -> bool:
        """Whether free blocks suffice for these tokens, and for the whole prompt where that is asked."""
        size, longest = self.limits.block_size, self.limits.max_model_len
        if self.limits.reserve_full_prompt:
            tokens = max(tokens, request.num_tokens)
        need = max(0, -(-min(tokens, longest) // size) - len(cached)) + self.pool.evictable(cached)
        watermark = self._watermark if self.running else 0
        return need + watermark <= self.pool.free

    def _start(self, request: Request, cached: list[int], new: int) -> None:
        size = self.limits.block_size
        hit = len(cached) * size
        self.pool.hold(cached)
        request.blocks = cached
        request.remembered = len(cached)
        request.computed = hit + new
        slots = min(request.computed + self.limits.lookahead, self.limits.max_model_len)
        self._give(request, -(-slots // size) - len(cached))
        request.next_full = (request.remembered + 1) * size
        request.hit, request.taken, request.gained, request.running = hit, new, 0, True
        if request.computed >= request.next_full:
            self._remember(request)
        self.waiting.popleft()
        self.running.append(request)
        if request.preemptions == 0:
            request.first_hit = hit
            if self.limits.prefix_caching:
                self.counters.prefix_queries += request.num_tokens
                self.counters.prefix_hits += hit

    def _give(self, request: Request, count: int) -> None:
        if count > 0:
            request.blocks.extend(self.pool.take(count))
        request.capacity = len(request.blocks) * self.limits.block_size

    def _preempt(self, request: Request) -> None:
        self._free(request)
        request.preemptions += 1
        self.counters.preemptions += 1
        self.waiting.appendleft(request)

    def _free(self, request: Request) -> None:
        self.pool.release(request.blocks)
        request.blocks = []
        request.computed = request.capacity = request.remembered = request.drafts = 0
        request.running = False

    def _remember(self, request: Request) -> None:
        """Put the blocks that this step fills into the prefix cache, already when they are scheduled."""
        size = self.limits.block_size
        if not self.limits.prefix_caching:
            request.next_full = self.limits.max_model_len + 1
            return
        full = min(request.computed, request.num_tokens) // size  # of draft tokens nothing is remembered
        for index in range(request.remembered, full):
            self.pool.remember(request.blocks[index], self._hash(request, index))
        request.remembered = full
        request.next_full = (full + 1) * size

    def _hash(self, request: Request, index: int) -> int:
        """Hash of block `index` chained over all before it; ints only, so equal in every process."""
        hashes, size = request.hashes, self.limits.block_size
        for missing in range(len(hashes), index + 1):
            parent = hashes[-1] if hashes else 1
            hashes.append(hash((parent, tuple(_tokens(request, missing * size, (missing + 1) * size)))) or 1)
        return hashes[index]


def _chunk(new: int, cap: int, most: int) -> int:
    """Tokens of one request in one step: all, or the long-prefill cap, or what is left."""
    return min(cap if 0 < cap < new else new, most)


def _take_drafts(request: Request, step: SchedulerStep) -> int:
    """How many of a request's draft tokens the step takes along."""
    request.verified = max(0, request.computed - request.num_tokens)
    request.drafts, request.padded = 0, False
    step.draft_tokens += request.verified
    return request.verified


def _tokens(request: Request, start: int, end: int) -> Sequence[int]:
    prompt = request.prompt
    if end <= len(prompt):
        return prompt[start:end]
    split = max(start, len(prompt))
    return [*prompt[start:], *request.draw(split, end)]
