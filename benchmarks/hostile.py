"""Memory and time of a whole run against servers that send without an end.

Each habit is served on loopback for one short run; the memory is the sum over parent and workers,
looked at twenty times a second. Then `harness report` reads the result again.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.numbers import Number
from tests.odd_server import OddServer, sized

MOST_MIB = 600
TIMEOUT_S = 4
MODELS = sized('{"data": [{"id": "m"}]}')
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices": [{"text": "a"}]}\n\n'
BLOCK = bytes(1 << 20).replace(b"\0", b"x")
SCENARIO = """name: hostile
question: Does it end?
engine: {kind: attach, url: "%s", model: m}
workload: {kind: synthetic, input_tokens: 20, output_tokens: 8}
load: [{closed: {concurrency: 8, requests: 8}}]
timeout: %ds
workers: 2
"""


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


def _forever(head: bytes, block: bytes, pause_s: float = 0.0) -> Iterator[bytes]:
    yield head
    for piece in itertools.repeat(block):
        yield piece
        time.sleep(pause_s)


OK, ERROR = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500 No\r\n"
LARGE = b"Content-Length: 1073741824\r\n\r\n"
ANSWERS = {  # how completions are answered
    "negative chunk": lambda: _forever(CHUNKED, b"-5\r\nabcde\r\n\r\n" * 100),
    "error of 1 GB": lambda: _forever(ERROR + LARGE, BLOCK),
    "answer of 1 GB": lambda: _forever(OK + LARGE, BLOCK),
    "no framing": lambda: _forever(OK + b"\r\n", BLOCK),
    "endless headers": lambda: _forever(OK, b"X-Pad: y\r\n" * 1000),
    "endless interim": lambda: _forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "one giant event": lambda: itertools.chain([CHUNKED, _chunk(b"data: ")], itertools.repeat(_chunk(BLOCK))),
    "endless events": lambda: _forever(CHUNKED, _chunk(EVENT) * 1000),
    "a million events": lambda: [
        CHUNKED,
        *[_chunk(b"data: {}\n\n" * 1000)] * 1000,
        _chunk(b"data: [DONE]\n\n"),
        b"0\r\n\r\n",
    ],
    "16 MB of {}": lambda: [
        CHUNKED,
        *[_chunk(b"data:{}\n\n" * 1000)] * 1700,
        _chunk(b"data: [DONE]\n\n"),
        b"0\r\n\r\n",
    ],
    "small reads": lambda: _forever(CHUNKED, _chunk(EVENT), 0.00002),
    "slow body": lambda: _forever(CHUNKED, _chunk(EVENT), 0.2),
    "deep JSON": lambda: sized(b"[" * 10_000_000),
    "long extension": lambda: _forever(CHUNKED + b"5;", b"x" * 1000),
}
CONTROL = {  # how everything else is answered
    "endless /metrics": ("/metrics", lambda: _forever(OK + b"\r\n", b"vllm:num_requests_running 1\n" * 1000)),
    "endless /v1/models": ("/v1/models", lambda: _forever(OK + b"\r\n", BLOCK)),
    "deep /v1/models": ("/v1/models", lambda: sized(b"[" * 7_000_000)),
}


def hostile(folder: Path) -> Iterator[Number]:
    """Peak memory of a run under each habit."""
    folder.mkdir(parents=True, exist_ok=True)
    good = b"".join([CHUNKED, _chunk(EVENT) * 8, _chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"])
    for name in (*ANSWERS, *CONTROL):
        place, habit = CONTROL.get(name, ("/v1/completions", ANSWERS.get(name)))

        def answer(path, _head, _body, place=place, habit=habit):
            plain = {"/v1/models": MODELS, "/v1/completions": good}.get(path, sized("", "404 No"))
            return habit() if path == place else plain

        with OddServer(answer) as server:
            peak, seconds, code, told = _run(folder, name.replace(" ", "-").replace("/", "_"), server.url)
        met = peak < MOST_MIB and code not in (None, 1) and "Traceback" not in told
        found = f"{peak:.0f} MiB, {seconds:.0f} s, exit {code}"
        yield Number("hostile", f"memory of a run against: {name}", f"< {MOST_MIB} MiB", found, met)


def _run(folder: Path, name: str, url: str) -> tuple[float, float, int | None, str]:
    path, out = folder / f"{name}.yaml", folder / name
    path.write_text(SCENARIO % (url, TIMEOUT_S), encoding="utf-8")
    begun, peak, told, code = time.monotonic(), 0.0, "", None
    for words in (["run", path, "--out", out], ["report", out]):
        if words[0] == "report" and not (out / "summary.json").exists():
            continue
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", *map(str, words)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while process.poll() is None and time.monotonic() - begun < 90:
            peak = max(peak, _memory(process.pid))
            time.sleep(0.05)
        if process.poll() is None:
            process.kill()
            return peak, time.monotonic() - begun, None, told
        told += process.stderr.read()
        code = process.returncode if words[0] == "run" else code
        if words[0] == "report" and process.returncode not in (0, 4):
            code = 1
    return peak, time.monotonic() - begun, code, told


def _memory(pid: int) -> float:
    total = 0
    try:
        parent = psutil.Process(pid)
        for one in (parent, *parent.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.Error:
        pass
    return total / (1 << 20)
