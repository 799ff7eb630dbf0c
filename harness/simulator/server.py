"""The simulated engine's HTTP server, with the routes of vLLM's OpenAI-compatible one."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from harness.errors import EngineError
from harness.messages import message
from harness.simulator.engine_config import Settings
from harness.simulator.kv_transfer import Params
from harness.simulator.request_bodies import ENDPOINT_OF, parse_body
from harness.simulator.request_parsing import Refusal, decode, decode_body
from harness.simulator.service import SIMULATED_HEADER, Service, service_of
from harness.simulator.vllm_formats import startup_lines

RELEASE_PATH = "/simulator/kv_release"
"""By which the simulated engines of a pair tell each other what has been fetched; vLLM has a side channel for it."""
_RELEASE_S = 5.0
VERSION = "0.32.0+npu.harness.simulator"
_PERMISSION = {
    "id": "modelperm-simulator", "object": "model_permission", "allow_create_engine": False,
    "allow_sampling": True, "allow_logprobs": True, "allow_search_indices": False, "allow_view": True,
    "allow_fine_tuning": False, "organization": "*", "group": None, "is_blocking": False,
}  # fmt: skip
Log = Callable[[str], None]


def application(service: Service) -> web.Application:
    """The web application; its engine runs while the application does."""
    app = web.Application(client_max_size=1 << 30, middlewares=[_errors])
    handlers = _Handlers(service)
    app.router.add_get("/health", handlers.health)
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/version", handlers.version)
    app.router.add_get("/v1/models", handlers.models)
    for path, endpoint in ENDPOINT_OF.items():
        app.router.add_post(path, partial(handlers.generate, endpoint=endpoint))
    app.router.add_post("/tokenize", handlers.tokenize)
    app.router.add_post("/detokenize", handlers.detokenize)
    app.on_response_prepare.append(_mark)
    app.router.add_post(RELEASE_PATH, handlers.release)
    app.cleanup_ctx.append(lambda _: _running(service))
    return app


async def _mark(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[SIMULATED_HEADER] = "1"


async def _running(service: Service) -> AsyncIterator[None]:
    task = asyncio.create_task(service.run())
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_RELEASE_S)) as session:
        releases: set[asyncio.Task[None]] = set()

        def on_fetched(params: Params) -> None:
            release = asyncio.create_task(_release(session, params))
            releases.add(release)
            release.add_done_callback(releases.discard)

        service.port.on_fetched = on_fetched
        yield
        for each in (task, *releases):
            each.cancel()
        await asyncio.wait({task, *releases})
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _release(session: aiohttp.ClientSession, params: Params) -> None:
    """Tell the server that kept a KV cache that it is not needed any more; it lets go by itself after a while."""
    address = f"http://{params.get('remote_host')}:{params.get('remote_port')}{RELEASE_PATH}"
    with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, ValueError):
        async with session.post(address, json={"remote_request_id": params.get("remote_request_id")}):
            pass


@web.middleware
async def _errors(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    """Refusals as vLLM's error JSON."""
    try:
        response: web.StreamResponse = await handler(request)
    except Refusal as refusal:
        return _answered(refusal.body, refusal.status)
    except web.HTTPException as missing:
        return _answered({"detail": missing.reason}, missing.status)
    return response


def _answered(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


async def _json(request: web.Request) -> Any:
    return decode_body(await request.read())


@dataclass(frozen=True, slots=True)
class _Handlers:
    """The routes of one service."""

    service: Service

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self.service.stopped.is_set() else 200)

    async def version(self, _: web.Request) -> web.Response:
        return _answered({"version": VERSION})

    async def models(self, _: web.Request) -> web.Response:
        permission = dict(_PERMISSION, created=self.service.created)
        cards = [{**card, "permission": [permission]} for card in self.service.models()]
        return _answered({"object": "list", "data": cards})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self.service.metrics(), content_type="text/plain")

    async def release(self, request: web.Request) -> web.Response:
        """Free a KV cache that was kept for another server, which has it now."""
        body = await _json(request)
        self.service.port.release(str(body.get("remote_request_id")) if isinstance(body, dict) else "")
        return web.Response()

    async def tokenize(self, request: web.Request) -> web.Response:
        return _answered(self.service.tokenize(await _json(request)))

    async def detokenize(self, request: web.Request) -> web.Response:
        body = await _json(request)
        return _answered({"prompt": decode(body.get("tokens", []))})

    async def generate(self, request: web.Request, *, endpoint: str) -> web.StreamResponse:
        """Any API: an answer in one piece, or as a stream."""
        ask = parse_body(await _json(request), self.service.serving, endpoint)
        done = asyncio.get_running_loop().create_future()

        def whole() -> None:
            if not done.done():
                done.set_result(None)

        response = await _stream(request) if ask.stream else None
        write = request.transport.write if response is not None and request.transport is not None else None
        answer = self.service.answer(ask, write, whole)
        try:
            await done
        except asyncio.CancelledError:
            self.service.abort(answer)
            raise
        if response is None:
            return _answered(answer.body())
        with contextlib.suppress(ConnectionResetError):  # the client may leave with the last token
            await response.write_eof()
        return response


async def _stream(request: web.Request) -> web.StreamResponse:
    """A started event stream; its chunks are then written straight to the transport."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


async def serve(
    settings: Settings, *, host: str, port: int, on_ready: Callable[[str], None], log: Log = lambda _: None
) -> None:
    """Serve until cancelled, or until SIGTERM or SIGINT comes; `on_ready` gets the URL, `log` the start-up lines.

    Port 0 takes a free one. What is in flight when it stops is not finished.

    Raises:
        EngineError: the engine would not start with these settings, or the port is taken.
    """
    service = service_of(settings)
    for line in startup_lines(settings, service.memory):
        log(line)
    await asyncio.sleep(settings.start_seconds)
    runner = web.AppRunner(application(service), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = await _listen(runner, host, port)
        service.port.address = host, int(runner.addresses[0][1])
        gc.freeze()
        log(f"Starting vLLM server on {site}")
        on_ready(site)
        await _stopped(service.stopped)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> str:
    try:
        await web.TCPSite(runner, host, port, backlog=4096).start()
    except OSError as error:
        raise EngineError(
            message("simulator.cannot_listen", host=host, port=port, reason=error.strerror or str(error))
        ) from error
    return f"http://{host}:{runner.addresses[0][1]}"


async def _stopped(stop: asyncio.Event) -> None:
    """Wait until the engine stops by itself, or SIGTERM or SIGINT comes where this thread may catch them."""
    loop = asyncio.get_running_loop()
    caught = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(number, stop.set)
            caught.append(number)
    try:
        await stop.wait()
    finally:
        for number in caught:
            loop.remove_signal_handler(number)
