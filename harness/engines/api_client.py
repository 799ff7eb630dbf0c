"""Control calls to a server: its health, models, tokenizer and counters.

They are made outside the measured path, and over the same client: the same addresses, headers, trust and bounds.
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
from harness.messages import Message, message, plain
from harness.safety import bounds
from harness.safety.redaction import redact
from harness.scenario.engine import Engine
from harness.telemetry import server_metrics
from harness.units import seconds_to_ns
from harness.workload.classes import RequestClass

__all__ = [
    "HEALTHY", "SLOW", "UNHEALTHY", "UNREACHABLE", "ControlClient", "ServedModel", "api_key", "hold_names",
    "pick_model",
]  # fmt: skip

HEALTHY, UNHEALTHY, UNREACHABLE, SLOW = "healthy", "unhealthy", "unreachable", "slow"
# The header, the fingerprint, the owner and the version of harness/simulator/server.py.
SIMULATOR_MARKS = re.compile(rb"(?i)x-npu-harness-simulated:\s*1|npu-harness[- ]simulator|npu\.harness\.simulator")
_TOO_SLOW_OR_LONG = ("timeout", "too_long")  # of an answer: something is there
_NO_SUCH_ROUTE = (403, 404, 405, 410, 501)
_NAMES_SHOWN = 12
_PROBES: Mapping[str, Mapping[str, Any]] = {  # the least that a model answers; the later ones of pooling models
    "/v1/completions": {"prompt": [1, 2, 3], "max_tokens": 1},
    "/v1/embeddings": {"input": [1, 2, 3]},
    "/v1/score": {"text_1": "a", "text_2": "b"},
}


class NoResponseError(EngineError):
    """No whole answer came; `failure` is the short stable name of why."""

    def __init__(self, error: Message, failure: str) -> None:
        super().__init__(error)
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
        """The body as text, without the secrets that the server may repeat."""
        return redact(self.body.decode("utf-8", "replace"))

    @property
    def first_line(self) -> Message:
        """Its beginning, on one line."""
        line = one_line(self.text[: bounds.KEPT_BYTES])
        return plain(line) if line else message("engines.no_text")


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
        if reply.status in _NO_SUCH_ROUTE:
            return None
        if reply.status != 200:
            raise EngineError(message("engines.models_status", url=url, status=reply.status, body=reply.first_line))
        try:
            return [_served(row) for row in bounds.json_of(reply.text.encode())["data"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            shown = one_line(reply.text[: bounds.KEPT_BYTES])[:80]
            raise EngineError(message("engines.no_openai_server", url=url, body=shown)) from None

    async def healthy(self) -> bool:
        """Whether /health answers 200: the server is there, and the engine behind it lives."""
        return await self.state() == HEALTHY

    async def state(self) -> str:
        """`WELL` where /health answers 200, `UNWELL` where it answers anything else, `GONE` where nothing answers.

        `SLOW` where its answer has no end, or none within the time of a control call: that shows neither.
        """
        try:
            reply = await self._fetch("GET", "/health")
        except NoResponseError as error:
            return SLOW if error.failure in _TOO_SLOW_OR_LONG else UNREACHABLE
        except EngineError:
            return UNREACHABLE
        return HEALTHY if reply.status == 200 else UNHEALTHY

    async def introduce(self) -> None:
        """Let the server say what it is (/version), for its marks; one without that route says nothing."""
        with contextlib.suppress(EngineError):
            await self._fetch("GET", "/version")

    async def answers(self, model: str) -> bool:
        """Whether a prompt of three token ids gets its one token, or of a pooling model its vector or score.

        Raises:
            EngineError: where the server refuses it for good.
        """
        refused: EngineError | None = None
        for path, body in _PROBES.items():
            try:
                reply = await self._fetch("POST", path, {"model": model, **body})
            except EngineError:
                return False
            if not 400 <= reply.status < 500 and reply.status not in _NO_SUCH_ROUTE:
                return reply.status == 200
            url = self._target.address(path)
            refused = refused or EngineError(
                message("engines.completion_refused", url=url, status=reply.status, body=reply.first_line)
            )
            if reply.status not in _NO_SUCH_ROUTE:
                break
        raise refused or AssertionError

    async def tokenize(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the server's /tokenize makes of a body, or None where it has none."""
        try:
            reply = await self._fetch("POST", "/tokenize", body)
            value = bounds.json_of(reply.body) if reply.status == 200 else None
        except (EngineError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    async def metrics(self) -> str:
        """The text of /metrics, empty where the server has none."""
        try:
            reply = await self._fetch("GET", "/metrics")
        except EngineError:
            return ""
        return reply.text if reply.status == 200 else ""

    async def effective(self) -> Mapping[str, Any]:
        """The cache configuration that the engine really runs with, as /metrics shows it."""
        return server_metrics.cache_config(await self.metrics())

    async def _fetch(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> ControlResponse:
        """Every control call: bounded in bytes and time, as every request is.

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
        request = InFlightRequest(0, payload, self._client.clock.now_ns(), ended)
        self._client.send(request)
        await over
        address = self._target.address(path)
        if request.failure:
            error = message("engines.no_response", url=address, reason=_failure_reason(request))
            raise NoResponseError(error, request.failure)
        try:
            return self._reply(b"".join(request.pieces), address)
        except http1.BadHttpError as error:
            raise EngineError(message("engines.no_response", url=address, reason=str(error))) from None

    def _reply(self, raw: bytes, address: str) -> ControlResponse:
        head = http1.final_head(raw)
        assert head is not None  # an answer without one is a failure of the wire
        self.simulated = self.simulated or head.simulated or SIMULATOR_MARKS.search(raw) is not None
        if head.encoding:
            reason = message("engines.compressed", encoding=head.encoding)
            raise EngineError(message("engines.no_response", url=address, reason=reason))
        if 300 <= head.status < 400:
            reason = message("engines.redirected", location=head.location)
            raise EngineError(message("engines.no_response", url=address, reason=reason))
        body = http1.body_of(raw, head)
        return ControlResponse(head.status, b"".join(raw[a:b] for a, b in zip(body.starts, body.ends, strict=True)))


def _served(model: Mapping[str, Any]) -> ServedModel:
    name, parent = model["id"], model.get("parent")
    if not isinstance(name, str) or not name:
        raise TypeError(name)
    return ServedModel(name, str(model.get("root") or name), parent if isinstance(parent, str) and parent else None)


def _failure_reason(request: InFlightRequest) -> Message:
    if request.failure == "timeout":
        return message("engines.no_answer_within", limit_s=bounds.REPLY_S)
    text = redact(one_line(request.message))
    if request.failure in ("refused", "no_connection", "connect_timeout"):
        return message("engines.cannot_connect", reason=text)
    return plain(text or request.failure)


def pick_model(wanted: str | None, served: Sequence[ServedModel], url: str) -> str:
    """The model to send requests for: the one wanted, or the base model where only one is served.

    Names of one and the same model are equally good. An adapter is only taken where it is wanted.

    Raises:
        EngineError: where the server does not have it.
        InputError: where the choice is the user's.
    """
    names = [model.name for model in served]
    if wanted is not None and wanted not in names:
        near = suggestion(wanted, names) if names else message("engines.serves_none")
        raise EngineError(message("engines.model_not_served", url=url, model=wanted, suggestion=near))
    if wanted is not None:
        return wanted
    if not served:
        raise EngineError(message("engines.no_model_served", url=url))
    bases = [model for model in served if model.parent is None]
    if len({model.root for model in bases}) != 1:
        code = "engines.several_models_and_more" if len(names) > _NAMES_SHOWN else "engines.several_models"
        raise InputError(message(code, url=url, names=names[:_NAMES_SHOWN]))
    return bases[0].name


def hold_names(request_classes: Sequence[RequestClass], served: Sequence[ServedModel] | None, url: str) -> None:
    """Refuse a model or an adapter that requests name and the server does not list; None lists nothing.

    Raises:
        EngineError: with the nearest name that it has.
    """
    if served is None:
        return
    for named in request_classes:
        own = [model.name for model in served if (model.parent is not None) == named.adapter]
        if named.model and named.model not in own:
            key = "adapters" if named.adapter else "models"
            near = suggestion(named.model, own) if own else message("engines.serves_none")
            raise EngineError(message("engines.name_not_served", url=url, name=named.model, key=key, suggestion=near))
