"""Requests to the simulated engine without a socket: answers in the server's own bytes, at exact times."""

import asyncio
import json
from dataclasses import replace

import pytest
from aiohttp import web

from harness.client import answer_decoding
from harness.client.connection import InFlightRequest
from harness.client.transport import Client, post_bytes, target_of
from harness.clock import LoopClock, MonotonicClock
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.server import application
from harness.simulator.service import service_of
from harness.simulator.virtual_loop import VirtualSleeper
from harness.simulator.virtual_transport import VirtualTransport
from tests.virtual_loop import run_virtually

FLAGS = {"model": "Qwen/Qwen2.5-0.5B-Instruct", "max_model_len": 256}
SECOND_NS = 1_000_000_000
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def answered(body, path="/v1/completions", *, timeout_ns=60 * SECOND_NS, cut=False, **flags):
    """What became of one request, and the service that had it."""

    async def main():
        loop = asyncio.get_running_loop()
        clock, over = LoopClock(loop), loop.create_future()
        service = service_of(settings_from_flags({**FLAGS, **flags}), clock.now_ns)
        transport = VirtualTransport(service, clock, timeout_ns)
        engine = loop.create_task(service.engine.run_by(VirtualSleeper()))
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        payload = post_bytes(target_of("http://simulator"), path, data)
        transport.send(InFlightRequest(0, payload, 0, over.set_result))
        if cut:
            transport.cancel_all()
        request = await over
        engine.cancel()
        return request, service

    return run_virtually(main)


def decoded(request):
    """The answer of a request as the harness decodes it."""
    return answer_decoding.decode(request.pieces, request.stamps, request.failure, request.message)


@pytest.mark.parametrize("more", [STREAM, {}], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        ("/v1/completions", {"prompt": [1, 2, 3]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello there"}]}),
    ],
    ids=["completions", "chat"],
)
def test_every_form_of_answer_is_decoded_whole(path, prompt, more):
    """Streamed or whole, text or chat: all tokens that were asked for come, with nothing lost."""
    request, _ = answered({**prompt, "max_tokens": 5, **more}, path)
    answer = decoded(request)

    assert (answer.http_status, answer.error, answer.output_tokens) == (200, "", 5)
    assert answer.streamed == bool(more)
    assert len(answer.at_ns) == (5 if more else 1)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_the_tokens_of_a_step_come_in_one_event(path):
    """With two draft tokens, all accepted, three tokens an event: the same tokens as without, in fewer events."""
    asked = {"prompt": [5, 6, 7]} if "chat" not in path else {"messages": [{"role": "user", "content": "a b"}]}
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {**asked, "max_tokens": 8, "stream": True, "stream_options": options, "return_token_ids": True}
    drafting = {"spec_method": "ngram", "spec_tokens": 2, "acceptance_rates": [1, 1]}
    plain, drafted = decoded(answered(body, path)[0]), decoded(answered(body, path, **drafting)[0])

    assert (drafted.error, drafted.output_tokens) == ("", 8)
    assert drafted.text == plain.text
    assert (len(plain.at_ns), len(drafted.at_ns)) == (8, 4)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_the_answer_is_that_of_the_http_server(path, stream):
    """The same bytes over a socket are answered with the same tokens, counts and text; only times differ."""
    asked = {"prompt": [5, 6, 7]} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a b"}]}
    more = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}} if stream else {}
    body = {**asked, "max_tokens": 6, "n": 2, "seed": 3, "return_token_ids": True, "stream": stream, **more}
    virtual, served = decoded(answered(body, path)[0]), decoded(asyncio.run(over_a_socket(path, body)))

    assert virtual.at_ns != served.at_ns
    assert replace(virtual, at_ns=(), answer_ns=0) == replace(served, at_ns=(), answer_ns=0)


async def over_a_socket(path, body):
    """What became of one request to the HTTP server in real time."""
    runner = web.AppRunner(application(service_of(settings_from_flags(FLAGS))), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target = target_of(f"http://127.0.0.1:{runner.addresses[0][1]}")
    loop = asyncio.get_running_loop()
    over, client = loop.create_future(), Client(target, MonotonicClock(loop), 60 * SECOND_NS)
    try:
        client.send(InFlightRequest(0, post_bytes(target, path, json.dumps(body).encode()), 0, over.set_result))
        return await over
    finally:
        await client.close()
        await runner.cleanup()


def test_tokens_are_stamped_at_the_ends_of_steps():
    """The stamps are those of the engine's metrics: TTFT and the sum of gaps, to the nanosecond."""
    request, service = answered({"prompt": [1, 2, 3], "max_tokens": 4, **STREAM})
    at_ns = decoded(request).at_ns

    assert request.sent_ns == 0
    assert at_ns[0] / 1e9 == pytest.approx(service.engine.metrics.ttft_s.total, abs=1e-12)
    assert (at_ns[-1] - at_ns[0]) / 1e9 == pytest.approx(service.engine.metrics.itl_s.total, abs=1e-12)
    assert request.done_ns == at_ns[-1]
    assert set(request.lates) == {0}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": [1] * 300, "max_tokens": 4}, 400),
        ({"prompt": [1], "model": "other"}, 404),
        (b"no json", 400),
    ],
    ids=["too-long", "other-model", "no-json"],
)
def test_a_refusal_is_the_servers(body, status):
    """What vLLM would refuse is refused at once, with its status and words."""
    request, _ = answered(body)
    answer = decoded(request)

    assert answer.http_status == status
    assert answer.error == f"http_{status}"
    assert answer.message
    assert request.done_ns == 0


def test_a_request_that_takes_too_long_times_out_and_leaves_the_engine():
    """At the timeout, to the nanosecond, the client gives up; the engine drops what was left."""
    request, service = answered({"prompt": [1], "max_tokens": 200, **STREAM}, timeout_ns=20_000_000)

    assert (request.failure, request.done_ns) == ("timeout", 20_000_000)
    assert service.engine.metrics.finished["abort"] == 1
    assert not service.engine.scheduler.running


def test_what_is_cut_is_cancelled():
    """Where a run is cut, what is in flight ends as cancelled, also what the engine never had."""
    request, service = answered({"prompt": [1], "max_tokens": 200}, cut=True)

    assert request.failure == "cancelled"
    assert not service.engine.scheduler.waiting
