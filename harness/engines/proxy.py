"""A small proxy before several engines: it spreads requests over replicas, or sends each to prefill and then to decode.

Of a request to prefill and decode it makes two, as the proxy that vllm-ascend releases does
(examples/disaggregated_prefill_v1/load_balance_proxy_server_example.py, v0.23 and main): one for a single token to a
prefill engine, with `kv_transfer_params` that ask for a remote decode; then the client's own to a decode engine, with
the `kv_transfer_params` of that answer. What the engine answers goes back byte for byte as it comes. Unlike that proxy
it tries nothing twice, so that a failure is seen, and it does not start again what a decode engine gave up
("recomputed").
"""

import asyncio
import contextlib
import gc
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from harness.errors import EngineError, InputError
from harness.messages import Message, message
from harness.scenario.deployment import DECODE, PREFILL, REPLICA
from harness.simulator.balancing import LEAST_LOADED, Balancer

_GENERATING = ("/v1/completions", "/v1/chat/completions")
_OF_ONE_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length", "expect"}
)
_REMOTE_DECODE = {
    "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None,
    "remote_host": None, "remote_port": None,
}  # fmt: skip
_HEALTH_S = 5.0
_REQUEST_ID = "X-Request-Id"


@dataclass(slots=True)
class Proxy:
    """The routes of a proxy: engines by role, each with what chooses among them."""

    balancers: Mapping[str, Balancer]
    _session: aiohttp.ClientSession | None = field(default=None)

    async def running(self, _app: web.Application) -> AsyncIterator[None]:
        """Keep connections to the engines while the application runs."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=300)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            self._session = session
            yield

    async def health(self, _request: web.Request) -> web.Response:
        """200 where all engines are well, else 503; and how many there are."""
        servers = [server for balancer in self.balancers.values() for server in balancer.servers]
        wells = await asyncio.gather(*map(self._well, servers))
        ill = [server for server, well in zip(servers, wells, strict=True) if not well]
        counts = {f"{role}_instances": len(balancer.servers) for role, balancer in self.balancers.items()}
        body = {"status": "ok" if not ill else "unhealthy", **counts, **({"unhealthy": ill} if ill else {})}
        return _json(body, 200 if not ill else 503)

    async def _well(self, server: str) -> bool:
        assert self._session is not None
        try:
            timeout = aiohttp.ClientTimeout(total=_HEALTH_S)
            async with self._session.get(f"{server}/health", timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, asyncio.TimeoutError):
            return False

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Send a request on: to prefill and decode where there are such and it asks for tokens, else to one engine."""
        body = await request.read()
        headers = _kept(request.headers)
        if PREFILL in self.balancers and request.path in _GENERATING:
            if _REQUEST_ID not in request.headers:
                headers[_REQUEST_ID] = str(uuid.uuid4())
            return await self._split(request, headers, body)
        balancer = self.balancers[DECODE if DECODE in self.balancers else REPLICA]
        with balancer.choose(len(body)) as server:
            return await self._relay(request, server, headers, body)

    async def _split(self, request: web.Request, headers: dict[str, str], body: bytes) -> web.StreamResponse:
        try:
            wanted = msgspec.json.decode(body)
        except msgspec.DecodeError:
            wanted = None
        if not isinstance(wanted, dict):
            return _refusal(message("engines.proxy_no_json"), 400)
        with contextlib.ExitStack() as held:
            server = held.enter_context(self.balancers[PREFILL].choose(len(body)))
            try:
                status, kept, answer = await self._whole(request, server, headers, prefill_body(wanted))
            except (aiohttp.ClientError, OSError) as fault:
                return _refusal(message("engines.proxy_fault", server=server, reason=str(fault)), 502)
            if status != 200:
                return web.Response(status=status, headers=kept, body=answer)
            with self.balancers[DECODE].choose(len(body)) as chosen:
                # The prefill engine has the blocks of the prompt until the decode engine has fetched them.
                return await self._relay(request, chosen, headers, decode_body(wanted, answer), held.close)

    async def _whole(
        self, request: web.Request, server: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        assert self._session is not None
        url = f"{server}{request.path_qs}"
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return response.status, _kept(response.headers), await response.read()

    async def _relay(
        self,
        request: web.Request,
        server: str,
        headers: dict[str, str],
        body: bytes,
        on_first_byte: Callable[[], None] = lambda: None,
    ) -> web.StreamResponse:
        """Pass an engine's answer on as it comes; where it breaks off, so does the client's."""
        assert self._session is not None
        answer: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method, f"{server}{request.path_qs}", data=body, headers=headers, allow_redirects=False
            ) as response:
                answer = web.StreamResponse(status=response.status, headers=_kept(response.headers))
                if response.content_length is not None:
                    answer.content_length = response.content_length
                await answer.prepare(request)
                async for piece in response.content.iter_any():
                    on_first_byte()
                    await answer.write(piece)
                await answer.write_eof()
        except (aiohttp.ClientError, OSError) as fault:
            if answer is None or not answer.prepared:
                return _refusal(message("engines.proxy_fault", server=server, reason=str(fault)), 502)
            if request.transport is not None:
                request.transport.abort()  # an end that looks whole would hide what is missing
        return answer


def prefill_body(wanted: Mapping[str, Any]) -> bytes:
    """The request to the prefill engine: the same prompt, one token, and its KV cache kept for a remote decode."""
    changed = {"kv_transfer_params": _REMOTE_DECODE, "stream": False, "max_tokens": 1, "min_tokens": 1}
    if "max_completion_tokens" in wanted:
        changed["max_completion_tokens"] = 1
    return msgspec.json.encode({name: value for name, value in wanted.items() if name != "stream_options"} | changed)


def decode_body(wanted: Mapping[str, Any], answer: bytes) -> bytes:
    """The request to the decode engine: the client's, with where the KV cache is, as the prefill engine said."""
    try:
        prefilled = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        prefilled = None
    place = prefilled.get("kv_transfer_params") if isinstance(prefilled, dict) else None
    return msgspec.json.encode({**wanted, "kv_transfer_params": place} if place else wanted)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that go through a proxy."""
    return {name: value for name, value in headers.items() if name.lower() not in _OF_ONE_HOP}


def _json(body: Mapping[str, Any], status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _refusal(reason: Message, status: int) -> web.Response:
    return _json({"error": {"message": str(reason), "type": "proxy_error", "code": status}}, status)


def application(servers: Mapping[str, Sequence[str]], policy: str = LEAST_LOADED) -> web.Application:
    """The web application of a proxy before `servers`, addresses by role: prefill and decode, or replica.

    Raises:
        InputError: where a role is missing.
    """
    there = {role: tuple(url.rstrip("/") for url in urls) for role, urls in servers.items() if urls}
    if set(there) not in ({PREFILL, DECODE}, {REPLICA}):
        raise InputError(message("engines.proxy_roles"))
    proxy = Proxy({role: Balancer(urls, policy) for role, urls in there.items()})
    app = web.Application(client_max_size=1 << 30)
    app.cleanup_ctx.append(proxy.running)
    app.router.add_get("/health", proxy.health)
    app.router.add_get("/healthcheck", proxy.health)
    app.router.add_get("/metrics", _no_metrics)
    app.router.add_route("*", "/{path:.*}", proxy.forward)
    return app


async def _no_metrics(_request: web.Request) -> web.Response:
    """A proxy has no counters of its own, and those of one engine would be taken for all."""
    return web.Response(status=404)


async def serve_proxy(
    servers: Mapping[str, Sequence[str]], policy: str, place: tuple[str, int], on_ready: Callable[[str], None]
) -> None:
    """Serve until cancelled; `on_ready` gets the URL. `place` is host and port, 0 for a free one.

    Raises:
        InputError: where a role is missing.
        EngineError: where the port is taken.
    """
    host, port = place
    app = application(servers, policy)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=4096).start()
        except OSError as error:
            reason = error.strerror or str(error)
            raise EngineError(message("engines.proxy_cannot_listen", host=host, port=port, reason=reason)) from error
        gc.freeze()
        on_ready(f"http://{host}:{runner.addresses[0][1]}")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
