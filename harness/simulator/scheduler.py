"""The scheduler: which tokens vLLM computes in the next step.

The rules of vLLM V1 (0.32 or 0.33, `v1/core/sched/scheduler.py` and `v1/core/kv_cache_manager.py`):
running requests first, in order of admission; then waiting ones, strictly first come first
served, or by priority; a token budget a step; blocks for the whole prompt at hand before a request is let in;
the last admitted request (or that of the lowest priority) preempted and recomputed where blocks run out.
Time plays no part here.
With speculation a running request takes its draft tokens along, and those that are rejected are taken back.
"""

import bisect
from collections import deque

from harness.simulator.engine_config import DEFAULT_VERSION
from harness.simulator.request_blocks import RequestBlocks
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
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.holding: list[Request] = []  # wait, but hold blocks for a KV cache that is fetched
        self.counters = Counters(accepted_by_position=[0] * limits.draft_tokens)
        self.blocks = RequestBlocks(limits, self.counters)
        self.pool = self.blocks.pool
        self._watermark = int(limits.watermark * limits.num_blocks)
        self._max_running = min(limits.max_num_seqs, limits.max_num_active_seqs or limits.max_num_seqs)
        self._new_rules = limits.engine_version != DEFAULT_VERSION
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
            self.blocks.free(request)
        elif request in self.holding:
            self.holding.remove(request)
            if request.fetched:
                self.blocks.free(request)
        else:
            self.waiting.remove(request)
        request.finished = True

    def fetched(self, request: Request) -> None:
        """The KV cache that a request waited for is here; of one that was aborted meanwhile the blocks go."""
        request.fetched = True
        if request.finished:
            self.blocks.free(request)

    def release(self, request: Request) -> None:
        """Free the blocks that a finished request kept."""
        self.blocks.free(request)

    @property
    def fetch_stages(self) -> tuple[int, int, int]:
        """Requests whose KV caches are yet to be fetched, are on their way, and are here but wait on."""
        here = sum(request.fetched for request in self.holding)
        return sum(request.remote for request in self.waiting), len(self.holding) - here, here

    def schedule(self, *, held: bool = False) -> SchedulerStep:
        """Choose the tokens of the next step and give them blocks.

        `held` asks to leave prefills to a later step, which all of several coordinated engines have at once.
        """
        step = SchedulerStep()
        cap = self._long_prefill_cap()
        held = self._cadence is not None and self._holds(self._cadence, early=held)
        budget = self._run_on(step, cap, held=held)
        if not step.preempted:
            step.run_on = len(step.scheduled)
            step.pads = self.limits.draft_tokens > 0 and not step.prefilled and all(r.gained for r in step.scheduled)
            budget = self._admit_fetched(step, budget) if self.holding else budget
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
                self.blocks.remember(request)
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
        request.drafted += request.verified
        if not request.accepted:
            request.accepted = [0] * (self.limits.draft_tokens + 1)
        request.accepted[accepted] += 1
        for position in range(accepted):
            counters.accepted_by_position[position] += 1
        return accepted + 1

    def _retire(self, finished: list[Request]) -> None:
        for request in finished:
            if not request.kept:
                self.blocks.free(request)
            request.running, request.finished = False, True
        self.running = [request for request in self.running if not request.finished]

    def _long_prefill_cap(self) -> int:
        limits, eligible = self.limits, len(self.running) + len(self.waiting) + len(self.holding)
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
                self.blocks.remember(request)
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
            self.blocks.give(request, need)
        return index

    def _budget_left(self, request: Request, step: SchedulerStep, budget: int) -> int:
        """What others have left of a budget once some were preempted; 0.32 ends where a request preempted itself."""
        if not self.limits.by_priority:
            return budget
        if not request.running and not self._new_rules:
            return 0
        return self.limits.token_budget - sum(other.taken for other in step.scheduled)

    def _admit_fetched(self, step: SchedulerStep, budget: int) -> int:
        """Let in those whose KV caches are here; the budget that is left, 0 where one of them finds no place."""
        for request in list(self.holding):
            if budget <= 0 or len(self.running) >= self._max_running:
                break
            request.passed = True
            if not request.fetched:
                continue
            if request.computed == request.num_tokens:  # the last token is computed again, to sample the next
                self.blocks.remember(request)
                request.computed -= 1
            blanks = self._blanks(request.computed) if step.pads and (step.run_on or request.computed) else 0
            new, size = 1 + blanks, self.limits.block_size
            slots = min(request.computed + new + self.limits.lookahead, self.limits.max_model_len)
            need = max(0, -(-slots // size) - len(request.blocks))
            if new > budget or need + (self._watermark if self.running else 0) > self.pool.free:
                return 0
            self.holding.remove(request)
            self.blocks.give(request, need)
            request.hit = request.computed
            request.computed += new
            request.taken, request.gained, request.running, request.passed = new, 0, True, False
            request.verified, request.padded = blanks, blanks > 0
            self.running.append(request)
            budget -= new
            step.add(request)
        return budget

    def _fetch(self, request: Request, cached: list[int], step: SchedulerStep) -> bool:
        """Give a request blocks for a KV cache to be fetched, where others that come in do not need them."""
        size = self.limits.block_size
        width = 1 + self.limits.draft_tokens + self.limits.lookahead if self.limits.draft_tokens else 0
        unready = [other for other in self.running if not other.gained]
        new = [other for other in step.admitted if not other.fetched and other.computed >= other.num_tokens]
        others = [*(other for other in unready if other not in new), *self.holding]
        reserved = sum(max(0, -(-(other.num_tokens + width) // size) - len(other.blocks)) for other in others)
        need = -(-request.num_tokens // size) - len(cached) + self.pool.evictable(cached)
        watermark = self._watermark if self.running else 0
        if need + watermark > self.pool.free - reserved - -(-width // size):
            return False
        self.blocks.hold(request, cached, request.num_tokens, request.num_tokens)
        request.remote = request.fetched = False
        self.blocks.count_hits(request)
        self.holding.append(request)
        step.fetching.append(request)
        return True

    def _admit(self, step: SchedulerStep, budget: int, cap: int, *, held: bool) -> None:
        """Let waiting requests in, in their order; one whose own limits keep it back alone is passed by."""
        place, adapters = 0, self._adapters(step)
        while budget > 0 and place < len(self.waiting) and len(self.running) < self._max_running:
            request = self.waiting[place]
            new, blanks, cached = 0, 0, []
            if not (request.adapter and len(adapters | {request.adapter}) > self.limits.max_loras > 0):
                cached = self.blocks.cached_prefix(request)
                if request.remote:
                    if not self._fetch(request, cached, step):
                        return
                    del self.waiting[place]
                    continue
                hit = len(cached) * self.limits.block_size
                blanks = (
                    self._blanks(hit) if step.pads and request.num_tokens - hit == 1 and (step.run_on or hit) else 0
                )
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

    def _fits(self, request: Request, cached: list[int], tokens: int) -> bool:
        """Whether free blocks suffice for these tokens, and for the whole prompt where that is asked."""
        size, longest = self.limits.block_size, self.limits.max_model_len
        if self.limits.reserve_full_prompt:
            tokens = max(tokens, request.num_tokens)
        need = max(0, -(-min(tokens, longest) // size) - len(cached)) + self.pool.evictable(cached)
        watermark = self._watermark if self.running else 0
        return need + watermark <= self.pool.free

    def _start(self, request: Request, cached: list[int], new: int) -> None:
        computed = len(cached) * self.limits.block_size + new
        self.blocks.hold(request, cached, computed, min(computed + self.limits.lookahead, self.limits.max_model_len))
        request.taken, request.gained, request.running = new, 0, True
        request.passed = request.fetched = False
        if request.computed >= request.next_full:
            self.blocks.remember(request)
        self.running.append(request)
        self.blocks.count_hits(request)

    def _preempt(self, request: Request) -> None:
        self.blocks.free(request)
        request.preemptions += 1
        self.counters.preemptions += 1
        self._enqueue(request, first=True)


def _take_drafts(request: Request, step: SchedulerStep) -> int:
    """How many of a request's draft tokens the step takes along."""
    request.verified = max(0, request.computed - request.num_tokens)
    request.drafts, request.padded = 0, False
    step.draft_tokens += request.verified
    return request.verified
