"""The simulator's speed in virtual time, and its punctuality in real time."""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import psutil

from benchmarks.numbers import Number
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.virtual_time import Arrival, SimulatedRun, simulate
from harness.units import format_duration, format_rate, format_share

OUTPUT_TOKENS = 1_000_000
STREAMS = 96
TOKENS = 1500
FLAGS = {"model": "Qwen/Qwen2.5-0.5B-Instruct", "max-num-seqs": "104", "max-num-batched-tokens": "8192"}


def simulator_virtual(folder: Path) -> Iterator[Number]:  # noqa: ARG001 - all benchmarks take one
    """A million output tokens in virtual time, some 200 requests running."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(1, 100_000, int(length)).tolist() for length in rng.integers(100, 900, 4000)]
    arrivals = [
        Arrival(number * 71_428_571, prompt, int(rng.integers(100, 400))) for number, prompt in enumerate(prompts)
    ]
    flags = {"model": "Qwen/Qwen2.5-7B-Instruct", "max_num_seqs": 256, "max_num_batched_tokens": 8192}
    started = time.process_time()
    found: SimulatedRun = simulate(settings_from_flags(flags), arrivals)
    took_s = (time.process_time() - started) * OUTPUT_TOKENS / found.output_tokens
    what = f"a million tokens in virtual time, {found.running.mean():.0f} running"
    yield Number("simulator, virtual time", what, "≤ 2 s of one core", format_duration(took_s), took_s <= 2)


def simulator_served(folder: Path) -> Iterator[Number]:
    """Streams of one token a step from `harness serve-sim`, read by a client that only counts bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rate, shares, cpu_s = asyncio.run(_served())
    what = f"{STREAMS} streams in real time"
    yield Number("simulator, served", what, "≥ 20,000 tokens/s", format_rate(rate, "tokens/s"), rate >= 20_000)
    target = "≥ 99 % within 2 ms"
    yield Number("simulator, served", "steps ended in time", target, format_share(shares[0]), shares[0] >= 0.99)
    yield Number("simulator, served", "(last of a step's tokens written)", "as is", _shares(shares[1:]), met=True)
    yield Number("simulator, served", "server CPU a token", "≤ 50 µs", format_duration(cpu_s), cpu_s <= 50e-6)


def _shares(shares: tuple[float, ...]) -> str:
    return f"{format_share(shares[0])} within 2 ms, {format_share(shares[1])} within 4 ms"


async def _served() -> tuple[float, tuple[float, ...], float]:
    arguments = [part for flag, value in FLAGS.items() for part in (f"--{flag}", value)]
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "harness", "serve-sim", "--port", "0", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=dict(os.environ),
    )  # fmt: skip
    try:
        assert server.stdout is not None
        url = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", url)):
            url = (await server.stdout.readline()).decode()
        port = int(found[1])
        started = time.monotonic()
        await asyncio.gather(*(_stream(port, number) for number in range(STREAMS)))
        rate = STREAMS * TOKENS / (time.monotonic() - started)
        spent = psutil.Process(server.pid).cpu_times()
        return rate, _punctual_shares(port), (spent.user + spent.system) / (STREAMS * TOKENS)
    finally:
        server.terminate()
        await server.wait()


async def _stream(port: int, number: int) -> None:
    body = json.dumps({"prompt": [number] * 64, "max_tokens": TOKENS, "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: simulator\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    tail = b""
    while b"[DONE]" not in tail:
        tail = tail[-16:] + await reader.read(65536)
    writer.close()
    await writer.wait_closed()


def _punctual_shares(port: int) -> tuple[float, ...]:
    """By the server's own count: steps taken up within 2 ms, and written within 2 and 4 ms, of their end."""
    text = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    shares = []
    for name, bound in (("late", "0.002"), ("written", "0.002"), ("written", "0.004")):
        at = dict(re.findall(rf'npu_harness:step_{name}_seconds_bucket\{{.*le="(.*)"\}} (.*)', text))
        shares.append(float(at[bound]) / float(at["+Inf"]))
    return tuple(shares)
