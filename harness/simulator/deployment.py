"""Several simulated servers as one: replicas side by side, or pairs of prefill and decode, with what a proxy does.

A request to a pair goes as through the proxy of the harness (harness/engines/proxy.py), which does as that of
vllm-ascend: one for a single token to a prefill server, then the client's own to a decode server, with the
`kv_transfer_params` of that answer. The proxy's own time and that of its sockets are left out.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.scenario.deployment import DECODE, PREFILL, REPLICA
from harness.scenario.request_kinds import CHAT, COMPLETIONS
from harness.simulator.balancing import LEAST_LOADED, Balancer
from harness.simulator.engine import Sleeper
from harness.simulator.kv_transfer import Params
from harness.simulator.request_parsing import ModelLimits, ParsedRequest
from harness.simulator.response_stream import ResponseStream, Write
from harness.simulator.service import Service


@dataclass(frozen=True, slots=True)
class Member:
    """One server of a deployment, by its name and what it does."""

    name: str
    role: str
    service: Service


@dataclass(slots=True, eq=False)
class RoutedAnswer:
    """An answer that one server gives after another; the last is the client's."""

    parts: list[tuple[Service, ResponseStream]] = field(default_factory=list)
    held: contextlib.ExitStack = field(
        default_factory=contextlib.ExitStack
    )  # what the request is counted as in balancers
    given_up: bool = False

    def body(self) -> dict[str, Any]:
        """The whole answer as one object."""
        return self.parts[-1][1].body()


class Deployment:
    """The servers, and the proxy's choice among those of each role; it is asked as a `Service` is."""

    def __init__(self, members: Sequence[Member], policy: str = LEAST_LOADED) -> None:
        """`policy` is the proxy's: the least loaded server, by tokens of prompts, or each in turn."""
        self.members = tuple(members)
        self._services = {member.name: member.service for member in members}
        roles = dict.fromkeys(member.role for member in members)
        self._balancers = {
            role: Balancer([member.name for member in members if member.role == role], policy) for role in roles
        }
        for member in members:
            member.service.port.address = member.name, 0
            member.service.port.on_fetched = self._let_go

    @property
    def _answering(self) -> str:
        """The role of the servers that answer clients."""
        return DECODE if DECODE in self._balancers else REPLICA

    @property
    def _first(self) -> Service:
        return next(member.service for member in self.members if member.role == self._answering)

    @property
    def serving(self) -> ModelLimits:
        """What requests are checked against."""
        return self._first.serving

    def tokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What /tokenize answers.

        Raises:
            Refusal: another model, or no text.
        """
        return self._first.tokenize(body)

    def models(self) -> list[dict[str, Any]]:
        """The cards of /v1/models."""
        return self._first.models()

    def metrics(self) -> str:
        """The text of /metrics of the servers that answer clients; a proxy has none of its own."""
        return self._first.metrics()

    def metrics_by_process(self) -> dict[str, str]:
        """The text of /metrics of each server, by name."""
        return {member.name: member.service.metrics() for member in self.members}

    async def run_by(self, sleeper: Callable[[], Sleeper]) -> None:
        """Run all servers until cancelled, or until one fails."""
        tasks = [asyncio.ensure_future(member.service.run_by(sleeper)) for member in self.members]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def answer(self, ask: ParsedRequest, write: Write | None, whole: Callable[[], None]) -> RoutedAnswer:
        """Send a request on; `write` gets the bytes of a stream, `whole` is called at the end of all.

        Only completions and chats go to both sides of a pair, as through the proxy.
        """
        answer = RoutedAnswer()
        if PREFILL in self._balancers and ask.endpoint in (COMPLETIONS, CHAT):
            self._prefill(answer, ask, write, whole)
        else:
            self._respond(answer, ask, write, whole)
        return answer

    def _choose(self, answer: RoutedAnswer, role: str, ask: ParsedRequest) -> tuple[Service, contextlib.ExitStack]:
        """A server of a role, and what gives its load back."""
        load = contextlib.ExitStack()
        name = load.enter_context(self._balancers[role].choose(sum(map(len, ask.prompts))))
        answer.held.callback(load.close)
        return self._services[name], load

    def _prefill(
        self, answer: RoutedAnswer, ask: ParsedRequest, write: Write | None, whole: Callable[[], None]
    ) -> None:
        service, load = self._choose(answer, PREFILL, ask)
        short = replace(
            ask, stream=False, max_tokens=(1,) * len(ask.prompts), kv_transfer_params={"do_remote_decode": True}
        )

        def on_prefilled() -> None:
            if not answer.given_up:
                params = first.kv_transfer_params
                self._respond(answer, replace(ask, kv_transfer_params=params), write, whole, load.close)

        first = service.answer(short, None, on_prefilled)
        answer.parts.append((service, first))

    def _respond(
        self,
        answer: RoutedAnswer,
        ask: ParsedRequest,
        write: Write | None,
        whole: Callable[[], None],
        on_first: Callable[[], None] = lambda: None,
    ) -> None:
        service, _ = self._choose(answer, self._answering, ask)

        def pass_on(data: bytes) -> None:
            assert write is not None
            on_first()
            write(data)

        def end() -> None:
            answer.held.close()
            whole()

        answer.parts.append((service, service.answer(ask, None if write is None else pass_on, end)))

    def abort(self, answer: RoutedAnswer) -> None:
        """Drop what is left of an answer whose client went away."""
        answer.given_up = True
        for service, part in answer.parts:
            service.abort(part)
        answer.held.close()

    def _let_go(self, params: Params) -> None:
        """A decode server has fetched a cache: the prefill server that kept it may free it."""
        self._services[params["remote_host"]].port.release(params["remote_request_id"])
