"""The proxy sends requests where they belong, passes answers on byte for byte, and hides no failure."""

import asyncio
import contextlib
import json

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.proxy import application, decode_body, prefill_body
from harness.errors import InputError
from harness.simulator.balancing import LEAST_LOADED, ROUND_ROBIN, Balancer

EVENTS = [b'data: {"n": 1}\n\n', b'data: {"text": "\xe4\xb8\xad"}\n\n', b"data: [DONE]\n\n"]
PLACE = {"remote_engine_id": "7", "remote_port": 36000, "remote_block_ids": [1, 2]}


class Backend:
    """An engine that answers as it is told, and keeps what it was asked."""

    def __init__(self, *, breaks=False, status=200):
        self.bodies, self.headers, self.paths, self.left = [], [], [], asyncio.Event()
        self.breaks, self.status, self.holds = breaks, status, None

    async def answer(self, request):
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if self.status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.status)
        if body.get("kv_transfer_params", {}).get("do_remote_decode"):
            return web.json_response({"kv_transfer_params": PLACE, "choices": []})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Mark": "1"})
        await response.prepare(request)
        try:
            for event in EVENTS:
                await response.write(event)
                if self.breaks:
                    request.transport.abort()
                    return response
            if self.holds is not None:
                await self.holds.wait()
            await response.write_eof()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return response

    async def other(self, request):
        self.paths.append(request.path_qs)
        return web.json_response({"path": request.path_qs}, status=200 if self.status == 200 else 503)


@contextlib.asynccontextmanager
async def listening(app):
    """The address of a web application."""
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def behind_proxy(policy=LEAST_LOADED, **backends):
    """A session whose requests go to a proxy before these backends, lists by role."""
    async with contextlib.AsyncExitStack() as held:
        servers = {}
        for role, several in backends.items():
            servers[role] = []
            for backend in several:
                app = web.Application()
                app.router.add_post("/v1/completions", backend.answer)
                app.router.add_route("*", "/{path:.*}", backend.other)
                servers[role].append(await held.enter_async_context(listening(app)))
        url = await held.enter_async_context(listening(application(servers, policy)))
        yield await held.enter_async_context(aiohttp.ClientSession(url))


def test_a_request_goes_to_prefill_and_then_to_decode():
    """One token at prefill, kept for a remote decode; then the client's own request with where the cache is."""

    async def ask():
        prefill, decode = Backend(), Backend()
        body = {
            "model": "m", "prompt": [1, 2], "max_tokens": 9, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        async with (
            behind_proxy(prefill=[prefill], decode=[decode]) as session,
            session.post("/v1/completions", json=body, headers={"Authorization": "Bearer k"}) as response,
        ):
            return body, prefill, decode, await response.read(), response.headers["X-Mark"]

    body, prefill, decode, answer, mark = asyncio.run(ask())
    first, second = prefill.bodies[0], decode.bodies[0]

    assert answer == b"".join(EVENTS)
    assert mark == "1"
    assert (first["max_tokens"], first["min_tokens"], first["stream"]) == (1, 1, False)
    assert first["kv_transfer_params"]["do_remote_decode"] is True
    assert "stream_options" not in first
    assert second == {**body, "kv_transfer_params": PLACE}
    assert prefill.headers[0]["X-Request-Id"] == decode.headers[0]["X-Request-Id"]
    assert prefill.headers[0]["Authorization"] == decode.headers[0]["Authorization"] == "Bearer k"


@pytest.mark.parametrize(("side", "status"), [("prefill", 503), ("decode", 400)])
def test_a_refusal_of_either_side_is_the_clients(side, status):
    """With its status and its words, tried once."""

    async def ask():
        sides = {role: Backend(status=status if role == side else 200) for role in ("prefill", "decode")}
        async with (
            behind_proxy(**{role: [backend] for role, backend in sides.items()}) as session,
            session.post("/v1/completions", json={"prompt": [1]}) as response,
        ):
            return response.status, await response.json(), len(sides[side].bodies)

    assert asyncio.run(ask()) == (status, {"error": {"message": "no"}}, 1)


def test_an_answer_that_breaks_off_breaks_off_for_the_client():
    """An end that looks whole would hide what is missing."""

    async def ask():
        async with (
            behind_proxy(replica=[Backend(breaks=True)]) as session,
            session.post("/v1/completions", json={"prompt": [1]}) as response,
        ):
            await response.read()

    with pytest.raises(aiohttp.ClientPayloadError):
        asyncio.run(ask())


def test_an_engine_that_is_gone_is_a_bad_gateway():
    """The line names the engine."""

    async def ask():
        app = application({"replica": ["http://127.0.0.1:9"]})
        async with (
            listening(app) as url,
            aiohttp.ClientSession(url) as session,
            session.post("/v1/completions", json={}) as response,
            session.get("/health") as health,
        ):
            return response.status, (await response.json())["error"]["message"], health.status

    status, line, health = asyncio.run(ask())

    assert (status, health) == (502, 503)
    assert line.startswith("proxy: engine http://127.0.0.1:9: ")


def test_a_client_that_leaves_is_gone_for_the_engine_too():
    """The engine stops working for nobody."""

    async def ask():
        backend = Backend()
        backend.holds = asyncio.Event()
        async with behind_proxy(replica=[backend]) as session:
            response = await session.post("/v1/completions", json={"prompt": [1]})
            await response.content.readany()
            response.close()
            await asyncio.wait_for(backend.left.wait(), 10)

    asyncio.run(ask())


def test_what_makes_no_tokens_goes_to_one_engine():
    """Models, tokenizer, version with their query; health is that of all; counters of one would be taken for all."""

    async def ask():
        prefill, decode, ill = Backend(), Backend(), Backend(status=503)
        async with behind_proxy(prefill=[prefill], decode=[decode]) as session:
            async with session.get("/v1/models?a=b") as models, session.get("/health") as health:
                well = await models.json(), health.status, await health.json()
            async with session.get("/metrics") as metrics:
                assert metrics.status == 404
            async with session.post("/v1/completions", data=b"[1]") as odd:
                assert odd.status == 400
        async with behind_proxy(prefill=[prefill], decode=[ill]) as session, session.get("/healthcheck") as health:
            return well, health.status, len((await health.json())["unhealthy"])

    (models, status, health), unhealthy, count = asyncio.run(ask())

    assert models == {"path": "/v1/models?a=b"}
    assert (status, health) == (200, {"status": "ok", "prefill_instances": 1, "decode_instances": 1})
    assert (unhealthy, count) == (503, 1)


def test_replicas_share_the_load():
    """Each gets as many of equal requests."""

    async def ask(policy):
        backends = [Backend(), Backend(), Backend()]
        async with behind_proxy(policy, replica=backends) as session:
            for _ in range(9):
                async with session.post("/v1/completions", json={"prompt": [1]}) as response:
                    await response.read()
        return [len(backend.bodies) for backend in backends]

    assert asyncio.run(ask(LEAST_LOADED)) == asyncio.run(ask(ROUND_ROBIN)) == [3, 3, 3]


def test_a_proxy_has_both_sides_or_replicas():
    """Anything else cannot be routed."""
    for servers in ({"prefill": ["http://a"]}, {}, {"replica": ["http://a"], "decode": ["http://b"]}):
        with pytest.raises(InputError, match="needs --prefill and --decode, or --replica"):
            application(servers)


@given(st.lists(st.floats(1, 100), max_size=40), st.integers(1, 5))
def test_the_least_loaded_is_never_more_loaded_than_another(loads, count):
    """Each choice falls on a server that has no more than any other, and a load that ends is gone."""
    balancer = Balancer([str(number) for number in range(count)])
    with contextlib.ExitStack() as held:
        for load in loads:
            before = dict(zip(balancer.servers, balancer._load, strict=True))
            assert before[held.enter_context(balancer.choose(load))] == min(before.values())

    assert balancer._load == pytest.approx([0.0] * count)


def test_a_prompt_without_an_answer_keeps_its_request():
    """Where prefill says nothing of a transfer, decode gets the request as it is; each name of a limit counts."""
    assert json.loads(decode_body({"prompt": "x"}, b"no json")) == {"prompt": "x"}
    assert json.loads(decode_body({"prompt": "x"}, b'{"kv_transfer_params": null}')) == {"prompt": "x"}
    assert json.loads(prefill_body({"max_completion_tokens": 50}))["max_completion_tokens"] == 1
