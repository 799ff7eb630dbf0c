"""A simulated server with what answers requests to it, whatever carries them: a socket or a call."""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec

from harness.clock import monotonic_ns, utc_now
from harness.scenario.request_kinds import CHAT, COMPLETIONS, POOLED, RESPONSES
from harness.simulator.answer_kinds import (
    DocumentChoice,
    TextChoice,
    answer_tokens_of,
    is_plain,
    pooled_body,
    response_body,
    vector_of,
)
from harness.simulator.balancing import RankBalancer
from harness.simulator.engine import SimulatedEngine, Sleeper, TaskAlarm, limits_of, run_apart, run_together
from harness.simulator.engine_config import Settings
from harness.simulator.kv_transfer import KvPort
from harness.simulator.memory import Memory, cache_labels, memory_of
from harness.simulator.request_parsing import (
    ModelLimits,
    ParsedRequest,
    acceptance,
    answer_tokens,
    check_model,
    pieces,
    prompt_ids,
)
from harness.simulator.response_stream import ResponseChoice, ResponseStream, Write
from harness.simulator.scheduler_types import Request
from harness.simulator.step_cost import StepCost, StepTimes
from harness.simulator.vllm_formats import exposition

SIMULATED_HEADER = "x-npu-harness-simulated"
OWNER = "npu-harness simulator"
_PREFIXES = {COMPLETIONS: "cmpl", CHAT: "chatcmpl", RESPONSES: "resp"}


@dataclass(slots=True)
class Service:
    """One engine or several data-parallel ones, their memory, and what requests are checked against.

    `port` hands KV caches over, where the server is one side of a pair.
    """

    settings: Settings
    memory: Memory
    engines: tuple[SimulatedEngine, ...]  # by rank
    ranks: RankBalancer
    serving: ModelLimits
    created: int
    port: KvPort
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    vector: msgspec.Raw = field(default_factory=lambda: vector_of(1))  # what every document is embedded as
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def engine(self) -> SimulatedEngine:
        """The first engine, which is the only one without data parallelism."""
        return self.engines[0]

    async def run_by(self, sleeper: Callable[[], Sleeper]) -> None:
        """Run all engines until cancelled; each sleeps by what `sleeper` gives."""
        if self.settings.steps_together:
            await run_together(self.engines, sleeper())
        else:
            await run_apart(self.engines, sleeper)

    async def run(self) -> None:
        """Run in real time until cancelled; `stopped` is set when it ends, also by a fault."""
        try:
            async with AsyncExitStack() as stack:
                alarms = iter([await stack.enter_async_context(TaskAlarm()) for _ in self.engines])
                await self.run_by(lambda: next(alarms))
        finally:
            self.stopped.set()

    def metrics(self) -> str:
        """The text of /metrics at this moment."""
        cache = cache_labels(self.settings, self.memory)
        engines = [(engine.metrics, engine.state()) for engine in self.engines]
        return exposition(engines, model=self.serving.model, cache=cache)

    def metrics_by_process(self) -> dict[str, str]:
        """The same as a deployment gives it: this server is one without a name."""
        return {"": self.metrics()}

    def now_ns(self) -> int:
        """The time by the engines' clock."""
        return self.engine.now_ns()

    def queued_ns(self, request: Request) -> tuple[int, int]:
        """When a request under way arrived, and when its first step began."""
        return next(engine for engine in self.engines if request in engine).queued_ns(request)

    def tokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What /tokenize answers.

        Raises:
            Refusal: another model, or no text.
        """
        check_model(body, self.serving)
        ids = prompt_ids(body, self.serving)
        strings = None
        if body.get("return_token_strs"):
            text = body.get("prompt")
            strings = pieces(text) if isinstance(text, str) else [f"t{number}" for number in ids]
        longest = self.serving.max_model_len
        return {"count": len(ids), "max_model_len": longest, "tokens": ids, "token_strs": strings}

    def models(self) -> list[dict[str, Any]]:
        """The cards of /v1/models: one for each name of the model, and each adapter's with the model as its parent."""
        plain = {"object": "model", "created": self.created, "owned_by": OWNER}
        card = {**plain, "root": self.settings.model, "parent": None, "max_model_len": self.serving.max_model_len}
        adapters = [{"id": name, **plain, "root": name, "parent": self.serving.model} for name in self.serving.adapters]
        return [*({"id": name, **card} for name in (self.serving.model, *self.serving.aliases)), *adapters]

    def answer(self, ask: ParsedRequest, write: Write | None, whole: Callable[[], None]) -> ResponseStream:
        """Queue a request for every choice; `write` gets the bytes of a stream, `whole` is called at the end of all."""
        number = next(self.numbers)
        name = f"{_PREFIXES.get(ask.endpoint, 'embd')}-{number:016x}"
        clock = self if self.settings.enable_per_request_metrics else None
        cached = self.settings.enable_prompt_tokens_details
        answer = ResponseStream(ask, name, _now_s(), write, whole, cached, clock)
        answer.tells_drafts = self.settings.per_request_spec_decode_metrics != "none"
        for place, prompt in enumerate(ask.prompts):
            for copy in range(ask.n):
                most, thinking = answer_tokens_of(ask, ask.max_tokens[place])
                draw = answer_tokens(prompt, self.serving.vocab, seed=ask.seed + copy)
                accept = acceptance(self.settings.speculation, prompt, seed=ask.seed + copy)
                inner = Request(f"{name}-{place}-{copy}", prompt, most, draw, accept)
                inner.adapter = "" if ask.model == self.serving.model else ask.model
                inner.priority = ask.priority
                answer.choices.append(self._choice(answer, place * ask.n + copy, inner, thinking))
        answer.open = len(answer.choices)
        for choice in answer.choices:
            choice.prepare()
            self._submit(answer, choice)
        return answer

    def _submit(self, answer: ResponseStream, choice: Any) -> None:
        engine, request = self.engines[self.ranks.choose()], choice.request
        self.port.accept(request, answer.ask.kv_transfer_params)

        def feed() -> None:
            if request.finished:
                answer.kv_transfer_params = self.port.keep(engine, request)
            choice.feed()

        engine.submit(request, feed if request.kept else choice.feed)

    def _choice(self, answer: ResponseStream, place: int, request: Request, thinking: int) -> Any:
        """What is fed with the tokens of a request, by the kind of its answer."""
        ask = answer.ask
        if ask.endpoint in POOLED:
            answer.object = lambda: pooled_body(answer, self.vector)
            return DocumentChoice(answer, place, request)
        if is_plain(ask):
            return ResponseChoice(answer, place, request)
        choice = TextChoice(answer, place, request, thinking)
        if ask.endpoint == RESPONSES:
            answer.object = lambda: response_body(choice)
        return choice

    def abort(self, answer: ResponseStream) -> None:
        """Drop what is left of an answer whose client went away."""
        for choice in answer.choices:
            for engine in self.engines:
                engine.abort(choice.request)
            self.port.give_up(choice.request)


def service_of(settings: Settings, now_ns: Callable[[], int] = monotonic_ns, cost: StepTimes | None = None) -> Service:
    """The engine that these settings start, not yet running, by a clock; `cost` replaces their own step time.

    Raises:
        EngineError: it would not start; in the engine's own words.
    """
    memory = memory_of(settings)
    limits, port = limits_of(settings, memory.num_blocks, memory.max_model_len), KvPort(settings)
    cost, slowdowns = cost or StepCost(settings), settings.slowdowns
    engines = tuple(
        SimulatedEngine(limits, cost, now_ns, rank=rank, slowdown=slowdowns.get(rank, 1.0))
        for rank in range(settings.data_parallel_size)
    )
    ranks = RankBalancer(engines)
    for engine in engines:
        engine.on_change = ranks.on_change if len(engines) > 1 else engine.on_change
        engine.on_fetch = port.fetch if port.fetches else None
    serving = ModelLimits(
        settings.name,
        settings.shape.vocab,
        memory.max_model_len,
        adapters=settings.adapters,
        reasons=bool(settings.reasoning_parser),
        by_priority=settings.scheduling_policy == "priority",
        aliases=settings.names[1:],
    )
    return Service(settings, memory, engines, ranks, serving, _now_s(), port, vector=vector_of(settings.shape.hidden))


def _now_s() -> int:
    return int(utc_now().timestamp())
