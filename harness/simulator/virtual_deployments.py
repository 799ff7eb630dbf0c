"""Several simulated engines under a load in virtual time, without the client and its bytes: ranks, or pairs of roles.

What chooses an engine, hands caches over and steps is that of `harness run` (`Service`, `Deployment`); requests come
and go as there: one that an answer sets free reaches its engine when the next step has begun.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.clock import LoopClock
from harness.scenario.deployment import DECODE, PREFILL
from harness.simulator.deployment import Deployment, Member, RoutedAnswer
from harness.simulator.engine_config import Settings
from harness.simulator.kv_transfer import CONSUMER, PRODUCER
from harness.simulator.request_parsing import ParsedRequest
from harness.simulator.service import Service, service_of
from harness.simulator.step_cost import StepTimes
from harness.simulator.virtual_loop import VirtualSleeper, virtual_loop
from harness.simulator.virtual_time import Arrival, SimulatedRun

Served = Service | Deployment
Serve = Callable[[Callable[[], int]], Served]
"""What makes the servers by a clock, not yet running."""


def pair_of(settings: Settings, prefill: int, decode: int, cost: StepTimes | None = None) -> Serve:
    """So many engines that prefill, and so many that decode, behind a proxy."""

    def member(name: str, role: str, kv_role: str, now_ns: Callable[[], int]) -> Member:
        config = f'{{"kv_connector": "MooncakeConnectorV1", "kv_role": "{kv_role}"}}'
        return Member(name, role, service_of(replace(settings, kv_transfer_config=config), now_ns, cost))

    def serve(now_ns: Callable[[], int]) -> Deployment:
        prefill_members = [member(f"{PREFILL}-{place}", PREFILL, PRODUCER, now_ns) for place in range(prefill)]
        decode_members = [member(f"{DECODE}-{place}", DECODE, CONSUMER, now_ns) for place in range(decode)]
        return Deployment([*prefill_members, *decode_members])

    return serve


def ranks_of(settings: Settings, ranks: int, cost: StepTimes | None = None) -> Serve:
    """So many data-parallel ranks behind one server."""
    return lambda now_ns: service_of(replace(settings, data_parallel_size=ranks), now_ns, cost)


def simulate_deployment(serve: Serve, arrivals: Sequence[Arrival], *, concurrency: int | None = None) -> SimulatedRun:
    """Serve the arrivals (in any order) in virtual time; of its steps nothing is kept.

    With `concurrency` so many requests are kept in flight: one comes when it is due and another has ended.

    Raises:
        EngineError: an engine would not start.
    """
    loop = virtual_loop()
    try:
        load = _Load(serve(LoopClock(loop).now_ns), arrivals, loop, concurrency or len(arrivals))
        loop.run_until_complete(load.run())
        return load.result()
    finally:
        loop.close()


@dataclass(slots=True)
class _Load:
    """Requests on their way to the servers and back."""

    served: Served
    arrivals: Sequence[Arrival]
    loop: asyncio.AbstractEventLoop
    free: int
    token_ns: list[list[int]] = field(init=False)
    sent_ns: list[int] = field(init=False)
    answers: dict[int, Any] = field(default_factory=dict)
    coming: list[int] = field(init=False)  # the last first
    open: int = field(init=False)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.token_ns = [[] for _ in self.arrivals]
        self.sent_ns = [arrival.at_ns for arrival in self.arrivals]
        order = sorted(range(len(self.arrivals)), key=lambda place: self.arrivals[place].at_ns)
        self.coming, self.open = order[::-1], len(order)

    def _now_ns(self) -> int:
        return round(self.loop.time() * 1e9)

    async def run(self) -> None:
        """Until every request is answered."""
        running = asyncio.ensure_future(self.served.run_by(VirtualSleeper))
        if self.open:
            self._send()
            done = asyncio.ensure_future(self.done.wait())
            await asyncio.wait({running, done}, return_when=asyncio.FIRST_COMPLETED)
            done.cancel()
        running.cancel()
        await asyncio.wait({running})

    def _send(self) -> None:
        """Send what is due and has a place; come back when the next is due."""
        while self.coming and self.free > 0:
            place = self.coming[-1]
            due_ns = self.arrivals[place].at_ns
            if due_ns > self._now_ns():
                self.loop.call_at(due_ns / 1e9, self._send)
                return
            self.coming.pop()
            self.free -= 1
            self.sent_ns[place] = self._now_ns()
            self.loop.call_soon(self._ask, place)

    def _ask(self, place: int) -> None:
        arrival, serving = self.arrivals[place], self.served.serving
        most = min(arrival.max_tokens, serving.max_model_len - len(arrival.prompt))
        ask = ParsedRequest(
            chat=False, model=serving.model, prompts=(arrival.prompt,), max_tokens=(most,), n=1, seed=0, stream=True,
            include_usage=False, continuous_usage=False, return_token_ids=False, priority=arrival.priority,
        )  # fmt: skip

        def write(_data: bytes) -> None:
            times = self.token_ns[place]
            times.extend([self._now_ns()] * (_last(self.answers[place]).count - len(times)))

        self.answers[place] = self.served.answer(ask, write, self._end)

    def _end(self) -> None:
        self.free += 1
        self.open -= 1
        if not self.open:
            self.done.set()
        self._send()

    def result(self) -> SimulatedRun:
        """What became of every request."""
        none = np.zeros(0, dtype=np.int64)
        requests = [_last(self.answers[place]).request for place in range(len(self.arrivals))]
        return SimulatedRun(
            token_ns=tuple(np.asarray(times, dtype=np.int64) for times in self.token_ns),
            sent_ns=np.asarray(self.sent_ns, dtype=np.int64),
            cached_tokens=np.asarray([request.first_hit for request in requests], dtype=np.int64),
            preemptions=np.asarray([request.preemptions for request in requests], dtype=np.int64),
            step_ns=none, running=none, waiting=none, tokens=none,
        )  # fmt: skip


def _last(answer: Any) -> Any:
    """The one choice of an answer that its client sees."""
    response = answer.parts[-1][1] if isinstance(answer, RoutedAnswer) else answer
    return response.choices[0]
