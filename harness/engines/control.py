"""What does a server say of itself: is it there, which models, how does it count, what are its counters?

Control calls only, over aiohttp, outside the measured path.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

import aiohttp

from harness import telemetry, wire
from harness.errors import EngineError, InputError, suggestion
from harness.events import one_line

SIMULATED_HEADER = "x-npu-harness-simulated"
WELL, UNWELL, GONE = "well", "unwell", "gone"
_TIMEOUT = aiohttp.ClientTimeout(total=15)


class Control:
    """Control calls to one server; use as `async with`."""

    def __init__(self, url: str, api_key_env: str | None = None) -> None:
        self._url = wire.target_of(url).url
        key = api_key(api_key_env)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None
        self.simulated = False

    async def __aenter__(self) -> "Control":
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def models(self) -> list[str]:
        """Names of the models that the server has.

        Raises:
            EngineError: where nothing listens, or what answers is no OpenAI-compatible server.
        """
        url = f"{self._url}/v1/models"
        status, text = await self._fetch("GET", url)
        if status != 200:
            raise EngineError(f"{url}: answered {status} ({one_line(text) or 'no text'}); expected a list of models")
        try:
            return [str(model["id"]) for model in json.loads(text)["data"]]
        except (ValueError, KeyError, TypeError):
            shown = one_line(text)[:80]
            raise EngineError(
                f"{url}: answered {shown!r}; expected the model list of an OpenAI-compatible server"
            ) from None

    async def healthy(self) -> bool:
        """Whether /health answers 200: the server is there, and the engine behind it lives."""
        return await self.state() == WELL

    async def state(self) -> str:
        """`WELL` where /health answers 200, `UNWELL` where it answers anything else, `GONE` where nothing answers."""
        try:
            status, _ = await self._fetch("GET", f"{self._url}/health")
        except EngineError:
            return GONE
        return WELL if status == 200 else UNWELL

    async def answers(self, model: str) -> bool:
        """Whether a prompt of three token ids gets its one token.

        Raises:
            EngineError: where the server refuses it for good.
        """
        url, body = f"{self._url}/v1/completions", {"model": model, "prompt": [1, 2, 3], "max_tokens": 1}
        try:
            status, text = await self._fetch("POST", url, body)
        except EngineError:
            return False
        if 400 <= status < 500:
            raise EngineError(f"{url}: refuses a completion of one token with {status} ({one_line(text) or 'no text'})")
        return status == 200

    async def tokenize(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the server's /tokenize says of a body, or None where it has none."""
        try:
            status, text = await self._fetch("POST", f"{self._url}/tokenize", body)
            found = json.loads(text) if status == 200 else None
        except (EngineError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    async def metrics(self) -> str:
        """The text of /metrics, empty where the server has none."""
        try:
            status, text = await self._fetch("GET", f"{self._url}/metrics")
        except EngineError:
            return ""
        return text if status == 200 else ""

    async def effective(self) -> Mapping[str, Any]:
        """The cache configuration that the engine really runs with, as /metrics tells it."""
        return telemetry.cache_config(await self.metrics())

    async def _fetch(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> tuple[int, str]:
        assert self._session is not None
        try:
            async with self._session.request(method, url, json=body) as answer:
                self.simulated = self.simulated or answer.headers.get(SIMULATED_HEADER) == "1"
                return answer.status, await answer.text(errors="replace")
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as fault:
            raise EngineError(f"{url}: {_why(fault)}; is the server running there?") from None


def _why(fault: BaseException) -> str:
    if isinstance(fault, asyncio.TimeoutError):
        return "no answer within 15 s"
    if isinstance(fault, aiohttp.ClientConnectorError):
        return f"cannot connect ({fault.os_error.strerror or fault.os_error})"
    return one_line(str(fault)) or type(fault).__name__


def api_key(name: str | None) -> str:
    """The key in the environment variable `name`; the key itself is never written anywhere.

    Raises:
        InputError: where the variable is named but not set.
    """
    if name is None:
        return ""
    key = os.environ.get(name, "")
    if not key:
        raise InputError(f"engine.api_key_env: environment variable {name} is not set; expected it to hold the API key")
    if not key.isascii() or not key.isprintable():
        raise InputError(f"engine.api_key_env: what {name} holds cannot be sent in a header; expected plain ASCII")
    return key


def pick_model(asked: str | None, served: list[str], url: str) -> str:
    """The model to ask for: the one named, or the only one served.

    Raises:
        EngineError: where the server does not have it.
    """
    if asked is not None and asked not in served:
        raise EngineError(f"{url}: has no model {asked!r}; {suggestion(asked, served) if served else 'it serves none'}")
    if asked is None and not served:
        raise EngineError(f"{url}: serves no model; expected one")
    return asked if asked is not None else served[0]
