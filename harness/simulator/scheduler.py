"""The scheduler: which tokens vLLM computes in the next step.

The rules of vLLM V1 (0.32 or 0.33, `v1/core/sched/scheduler.py` and `v1/core/kv_cache_manager.py`):
running requests first, in order of admission; then waiting ones, strictly first come first
served, or by priority; a token budget a step; blocks for the whole prompt at hand before a request is let in;
the last admitted request (or that of the lowest priority) preempted and recomputed where blocks run out.
Time plays no part here.
With speculation a running request takes its draft tokens along, and those that are rejected are taken back.
"""

import bisect
import zlib
from collections import deque
from collections.abc import Sequence

from harness.simulator.engine_config import DEFAULT_VERSION
from harness.simulator.memory import BlockPool
from harness.simulator.scheduler_types import (
    Counters,
    PrefillCadence,
    Request,
    SchedulerLimits,
    SchedulerStep,
)


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
        self._new_rules = limits.engine_version != DEFAULT_VERSION
        self._reach = int(limits.drop_last_hit and self._new_rules)  # tokens after a block that its hash covers
        self._cadence = PrefillCadence(limits.prefill_interval) if limits.prefill_interval > 1 else None
        self._added = 0

    def add(self, request: Request) -> None:
        """Queue a request behind the others, those of a lower priority excepted."""
        self._added += 1
        request.order = self._added
        request.num_tokens = len(request.prompt)
        request.stop_at = min(request.num_tokens + request.max_tokens, self.limits.max_model_len)
        self._enqueue(request)

    def _enqueue(self, request: Request, *, first: bool = False) -> None:
        """Let a request wait behind the others or before them; by priority in its place among them."""
        if self.limits.by_priority:
            bisect.insort(self.waiting, request, key=lambda other: other.rank)
        elif first:
            self.waiting.appendleft(request)
        else:
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

    def schedule(self, *, held: bool = False) -> SchedulerStep:
        """Choose the tokens of the next step and give them blocks.

        `held` asks to leave prefills to a later step, which all of several coordinated engines have at once.
        """
        step = SchedulerStep()
        cap = self._long_prefill_cap()
        held = self._cadence is not None and self._holds(self._cadence, early=held)
        budget = self._run_on(step, cap, held=held)
        if not step.preempted:
            if self.waiting:
                self._admit(step, budget, cap, held=held)
            if self._cadence is not None and not held:
                self._cadence.bound = any(not request.passed for request in self.waiting)
        if self._cadence is not None and step.scheduled:
            self._cadence.executed(step)
        return step

    def _holds(self, cadence: PrefillCadence, *, early: bool) -> bool:
        """Whether prefills wait in this step: the last one is too near, others decode, and the queue can be drained."""
        if self._new_rules and not self.limits.coordinated:
            early = early or cadence.is_early
        return early and not cadence.bound and any(request.gained for request in self.running)

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
                request.computed = min(request.computed, request.num_tokens - 1)
                finished.append(request)
            if drafts and self._new_rules and request.computed >= request.next_full:
                self._remember(request)
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

    def _run_on(self, step: SchedulerStep, cap: int, *, held: bool) -> int:
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
            if new != 1 or held:
                new = 0 if held and not request.gained else self._chunk(request, before, new, cap, budget)
                if new <= 0:
                    index += 1
                    continue
            after = before + new
            slots = min(after + lookahead, longest + 1) if lookahead else after
            if slots > request.capacity:
                index = self._make_room(request, slots, step, index)
                budget = self._budget_left(request, step, budget)
                if not request.running:
                    continue
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
        if step.preempted and self.limits.by_priority:
            step.count()
        return budget

    def _make_room(self, request: Request, tokens: int, step: SchedulerStep, index: int) -> int:
        """Blocks for `tokens` of the request at `index` of those that run, or the request itself preempted.

        Who goes is the last one, or by priority any: one that this step had scheduled already gives its tokens back.
        What is returned is the request's index then, or that of the one after it.
        """
        need = -(-tokens // self.limits.block_size) - len(request.blocks)
        running = self.running
        while need > self.pool.free and request.running:
            victim = max(running, key=lambda other: other.rank) if self.limits.by_priority else running[-1]
            place = running.index(victim) if self.limits.by_priority else len(running) - 1
            del running[place]
            if place < index:
                index -= 1
                if victim in step.scheduled:
                    step.scheduled.remove(victim)
                    step.prefilled |= not victim.gained
            self._preempt(victim)
            step.preempted.append(victim)
        if request.running:
            self._give(request, need)
        return index

    def _budget_left(self, request: Request, step: SchedulerStep, budget: int) -> int:
        """What others have left of a budget once some were preempted; 0.32 ends where a request preempted itself."""
        if not self.limits.by_priority:
            return budget
        if not request.running and not self._new_rules:
            return 0
        return self.limits.token_budget - sum(other.taken for other in step.scheduled)

    def _admit(self, step: SchedulerStep, budget: int, cap: int, *, held: bool) -> None:
        """Let waiting requests in, in their order; one whose own limits keep it back alone is passed by."""
        place, adapters, run_on = 0, self._adapters(step), len(step.scheduled)
        pads = self.limits.draft_tokens > 0 and not step.prefilled and all(request.gained for request in step.scheduled)
        while budget > 0 and place < len(self.waiting) and len(self.running) < self._max_running:
            request = self.waiting[place]
            new, blanks, cached = 0, 0, []
            if not (request.adapter and len(adapters | {request.adapter}) > self.limits.max_loras > 0):
                cached = self._cached_prefix(request)
                hit = len(cached) * self.limits.block_size
                blanks = self._blanks(hit) if pads and request.num_tokens - hit == 1 and (run_on or hit) else 0
                new = self._entry(request, hit, budget, cap, blanks, held=held)
            if new == 0:
                request.passed = True
                place += 1
                continue
            if new < 0 or not self._fits(request, cached, hit + new + self.limits.lookahead):
                return
            del self.waiting[place]
            self._start(request, cached, new)
            request.verified, request.padded = blanks, blanks > 0
            adapters |= {request.adapter} - {""}
            budget -= new
            step.add(request)

    def _entry(self, request: Request, hit: int, budget: int, cap: int, blanks: int, *, held: bool) -> int:
        """Tokens of a waiting request in this step: 0 where it is passed by, -1 where those behind it wait, too."""
        wanted = request.num_tokens - hit + blanks
        if (held and wanted > 1 + blanks) or (blanks and wanted > budget):
            return -1
        if not self.limits.chunked_prefill and min(wanted, cap or wanted) > budget:
            return -1
        return self._chunk(request, hit, wanted, cap, budget) or (0 if self._new_rules else -1)

    def _chunk(self, request: Request, before: int, new: int, cap: int, budget: int) -> int:
        """Of the tokens that a request wants after others those that it gets; it keeps off the end of its prompt."""
        limits = self.limits
        taken = min(cap if 0 < cap < new else new, budget, limits.max_model_len - 1 - before)
        left = request.num_tokens - before - taken
        return taken - (limits.prefill_lookahead - left) if 0 < left < limits.prefill_lookahead else taken

    def _blanks(self, computed: int) -> int:
        """Blank draft tokens that make a new decode as wide as the others, where its context has room for them."""
        blanks = self.limits.draft_tokens
        return blanks if computed + 1 + blanks < self.limits.max_model_len else 0

    def _adapters(self, step: SchedulerStep) -> set[str]:
        """The LoRA adapters that are in use: 0.32 counts those of this step, 0.33 those of all that run."""
        in_use = self.running if self._new_rules else step.scheduled
        return {request.adapter for request in in_use if request.adapter} if self.limits.max_loras else set()

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
        if cached and self.limits.drop_last_hit and not self._new_rules:
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
        request.hit, request.taken, request.gained, request.running, request.passed = hit, new, 0, True, False
        if request.computed >= request.next_full:
            self._remember(request)
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
        self._enqueue(request, first=True)

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
        full = min(request.computed, request.num_tokens - self._reach) // size  # of draft tokens nothing is remembered
        for index in range(request.remembered, full):
            self.pool.remember(request.blocks[index], self._hash(request, index))
        request.remembered = full
        request.next_full = (full + 1) * size

    def _hash(self, request: Request, index: int) -> int:
        """Hash of block `index` chained over all before it; ints only, so equal in every process."""
        hashes, size = request.hashes, self.limits.block_size
        for missing in range(len(hashes), index + 1):
            parent = hashes[-1] if hashes else 1 + zlib.crc32(request.adapter.encode())
            end = (missing + 1) * size + self._reach
            hashes.append(hash((parent, tuple(_tokens(request, missing * size, end)))) or 1)
        return hashes[index]


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
