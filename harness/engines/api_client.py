"""What does a server say of itself: is it there, which models, how does it count, what are its counters?

Control calls only, outside the measured path, and over the same client: the same addresses, headers,
trust and bounds.
"""

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from harness.client import http1, transport
from harness.client.connection import InFlightRequest
from harness.client.events import one_line
from harness.client.target import api_key, target_for
from harness.clock import MonotonicClock
from harness.errors import EngineError, InputError, suggestion
from harness.safety import bounds
from harness.safety.redaction import redact
from harness.scenario.models import Engine
from harness.telemetry import server_metrics
from harness.units import seconds_to_ns

__all__ = ["HEALTHY", "SLOW", "UNHEALTHY", "UNREACHABLE", "ControlClient", "ServedModel", "api_key", "pick_model"]

HEALTHY, UNHEALTHY, UNREACHABLE, SLOW = "well", "unwell", "gone", "slow"
# The header, the fingerprint, the owner and the version of harness/simulator/server.py.
SIMULATOR_MARKS = re.compile(rb"(?i)x-npu-harness-simulated:\s*1|npu-harness[- ]simulator|npu\.harness\.simulator")
_LATE_OR_LONG = ("timeout", "too_long")  # of an answer: something is there
_NO_SUCH_PLACE = (403, 404, 405, 410, 501)


class NoResponseError(EngineError):
    """No whole answer came; `failure` is the short stable name of why."""

    def __init__(self, line: str, failure: str) -> None:
        super().__init__(line)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server lists: its name, what it was loaded from, and the model that an adapter adds to."""

    name: str
    root: str
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class ControlResponse:
    """A server's answer to a control call."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, without the secrets that the server tells back."""
        return redact(self.body.decode("utf-8", "replace"))

    @property
    def words(self) -> str:
        """Its first words, on one line."""
        return one_line(self.text[: bounds.KEPT_BYTES]) or "no text"


class ControlClient:
    """Control calls to one server; use as `async with`."""

    def __init__(self, url: str, engine: Engine | None = None) -> None:
        """`engine` says how the server is reached: keys, headers, trust and routes."""
        self._target = target_for(url, engine or Engine())
        self._client: transport.Client | None = None
        self.simulated = False

    async def __aenter__(self) -> "ControlClient":
        clock = MonotonicClock(asyncio.get_running_loop())
        self._client = transport.Client(self._target, clock, seconds_to_ns(bounds.REPLY_S))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.cancel_all()
            await self._client.close()

    async def models(self) -> list[ServedModel] | None:
        """The models that the server lists, or None where it has no such list.

        Raises:
            EngineError: where nothing listens, or what answers is no OpenAI-compatible server.
        """
        url = self._target.address("/v1/models")
        reply = await self._fetch("GET", "/v1/models")
        if reply.status in _NO_SUCH_PLACE:
            return None
        if reply.status != 200:
            raise EngineError(f"{url}: answered {reply.status} ({reply.words}); expected a list of models")
        try:
            return [_served(model) for model in bounds.json_of(reply.text.encode())["data"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise EngineError(
                f"{url}: answered {reply.words[:80]!r}; expected the model list of an OpenAI-compatible server"
            ) from None

    async def healthy(self) -> bool:
        """Whether /health answers 200: the server is there, and the engine behind it lives."""
        return await self.state() == HEALTHY

    async def state(self) -> str:
        """`WELL` where /health answers 200, `UNWELL` where it answers anything else, `GONE` where nothing answers.

        `SLOW` where its answer has no end, or none within the time of a control call: that tells neither.
        """
        try:
            reply = await self._fetch("GET", "/health")
        except NoResponseError as fault:
            return SLOW if fault.failure in _LATE_OR_LONG else UNREACHABLE
        except EngineError:
            return UNREACHABLE
        return HEALTHY if reply.status == 200 else UNHEALTHY

    async def introduce(self) -> None:
        """Let the server say what it is (/version), for its marks; one that has no such place says nothing."""
        with contextlib.suppress(EngineError):
            await self._fetch("GET", "/version")

    async def answers(self, model: str) -> bool:
        """Whether a prompt of three token ids gets its one token.

        Raises:
            EngineError: where the server refuses it for good.
        """
        url, body = self._target.address("/v1/completions"), {"model": model, "prompt": [1, 2, 3], "max_tokens": 1}
        try:
            reply = await self._fetch("POST", "/v1/completions", body)
        except EngineError:
            return False
        if 400 <= reply.status < 500:
            raise EngineError(f"{url}: refuses a completion of one token with {reply.status} ({reply.words})")
        return reply.status == 200

    async def tokenize(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the server's /tokenize says of a body, or None where it has none."""
        try:
            reply = await self._fetch("POST", "/tokenize", body)
            found = bounds.json_of(reply.body) if reply.status == 200 else None
        except (EngineError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    async def metrics(self) -> str:
        """The text of /metrics, empty where the server has none."""
        try:
            reply = await self._fetch("GET", "/metrics")
        except EngineError:
            return ""
        return reply.text if reply.status == 200 else ""

    async def effective(self) -> Mapping[str, Any]:
        """The cache configuration that the engine really runs with, as /metrics tells it."""
        return server_metrics.cache_config(await self.metrics())

    async def _fetch(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> ControlResponse:
        """The one door for control calls: bounded in bytes and time, as every request is.

        Raises:
            EngineError: where no whole answer comes.
        """
        assert self._client is not None
        over: asyncio.Future[InFlightRequest] = asyncio.get_running_loop().create_future()

        def ended(request: InFlightRequest) -> None:
            if not over.done():
                over.set_result(request)

        data = b"" if body is None else msgspec.json.encode(body)
        payload = transport.request_bytes(method, self._target, path, data)
        one = InFlightRequest(0, payload, self._client.clock.now_ns(), ended)
        self._client.send(one)
        await over
        address = self._target.address(path)
        if one.failure:
            raise NoResponseError(f"{address}: {_why(one)}; is the server running there?", one.failure)
        try:
            return self._reply(b"".join(one.pieces))
        except http1.BadHttpError as fault:
            raise EngineError(f"{address}: {fault}; is the server running there?") from None

    def _reply(self, raw: bytes) -> ControlResponse:
        head = http1.final_head(raw)
        assert head is not None  # an answer without one is a failure of the wire
        self.simulated = self.simulated or head.simulated or SIMULATOR_MARKS.search(raw) is not None
        if head.encoding:
            raise http1.BadHttpError(f"the answer is compressed ({head.encoding!r}), which was not asked for")
        if 300 <= head.status < 400:
            raise http1.BadHttpError(f"redirects to {head.location!r}; expected that address in place of this one")
        body = http1.body_of(raw, head)
        return ControlResponse(head.status, b"".join(raw[a:b] for a, b in zip(body.starts, body.ends, strict=True)))


def _served(model: Mapping[str, Any]) -> ServedModel:
    name, parent = model["id"], model.get("parent")
    if not isinstance(name, str) or not name:
        raise TypeError(name)
    return ServedModel(name, str(model.get("root") or name), parent if isinstance(parent, str) and parent else None)


def _why(one: InFlightRequest) -> str:
    if one.failure == "timeout":
        return f"no answer within {bounds.REPLY_S:g} s"
    if one.failure in ("refused", "no_connection", "connect_timeout"):
        return f"cannot connect ({redact(one_line(one.message))})"
    return redact(one_line(one.message)) or one.failure


def pick_model(asked: str | None, served: Sequence[ServedModel], url: str) -> str:
    """The model to ask for: the one named, or the base model where only one is served.

    Names of one and the same model are equally good. An adapter is never taken unasked.

    Raises:
        EngineError: where the server does not have it.
        InputError: where the choice is the user's.
    """
    names = [model.name for model in served]
    if asked is not None and asked not in names:
        raise EngineError(f"{url}: has no model {asked!r}; {suggestion(asked, names) if names else 'it serves none'}")
    if asked is not None:
        return asked
    if not served:
        raise EngineError(f"{url}: serves no model; expected one")
    bases = [model for model in served if model.parent is None]
    if len({model.root for model in bases}) != 1:
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        raise InputError(f"{url}: serves several models; expected --model with one of {shown}")
    return bases[0].name
