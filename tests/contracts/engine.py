"""What every engine must do, however it is started."""

import asyncio
import socket
from urllib.parse import urlsplit

import numpy as np

from harness.client import answer_decoding, payload, transport
from harness.client.connection import InFlightRequest
from harness.clock import MonotonicClock
from harness.engines.api_client import ControlClient
from harness.workload.prompts import TokenPrompt


async def answer_of(serving, *, stream=True, output_tokens=5):
    """What the engine answers to a prompt of eight tokens, through the client that measures."""
    target = transport.target_of(serving.url)
    options = payload.Options(serving.model, "completions", stream, "usage", {})
    body = payload.body(TokenPrompt(np.arange(300, 308, dtype=np.int32)), output_tokens, options)
    client = transport.Client(target, MonotonicClock(asyncio.get_running_loop()), 30_000_000_000)
    over = asyncio.get_running_loop().create_future()
    client.send(InFlightRequest(0, transport.post_bytes(target, payload.path("completions"), body), 0, over.set_result))
    one = await over
    await client.close()
    return answer_decoding.decode(one.pieces, one.stamps, one.failure, one.message)


def listens(url):
    """Whether something accepts connections at an address."""
    parts = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.hostname, parts.port)) == 0


async def check_engine(start, engine, log, *, ends):
    """An engine serves its model, counts exactly, says what it is, and is gone afterwards if it was ours."""
    async with start(engine, log) as serving:
        async with ControlClient(serving.url) as control:
            assert serving.model in [model.name for model in await control.models()]
            assert "vllm:" in await control.metrics()
            assert control.simulated == serving.simulated
        for stream in (True, False):
            answer = await answer_of(serving, stream=stream)
            assert (answer.error, answer.input_tokens, answer.output_tokens) == ("", 8, 5)
        assert serving.ending() is None
        assert serving.configuration.effective.get("block_size")
        assert set(serving.configuration.sources) == set(serving.configuration.effective)
    assert listens(serving.url) is not ends
