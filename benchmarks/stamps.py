"""TTFT and the CPU cost of a token, beside the least that any client can cost: a reader in C.

Every client meets a reference server of its own with the same load; the server's log is stamped by the
kernel (last byte of the request in, each event out). Other tools are measured, too, where their
interpreters are given: HARNESS_VLLM_PYTHON, HARNESS_GUIDELLM_PYTHON, HARNESS_AIPERF_PYTHON.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.busy import burning
from benchmarks.numbers import Number
from benchmarks.peers import peers
from benchmarks.runs import Ran, raise_file_limit, ran, scenario
from benchmarks.truths import CheckedNumber
from harness.selfcheck.exactness import Exactness
from harness.selfcheck.reference_server.ground_truth import GroundTruth, TokenSchedule, read
from harness.selfcheck.selfcheck import started
from harness.units import NS_PER_MS, NS_PER_S, format_duration, format_rate, format_share

BEAT = TokenSchedule(first_ns=50 * NS_PER_MS, gap_ns=10 * NS_PER_MS)
TOKENS, ROUNDS = 100, 4
STREAMS = (100, 500, 1000)
SOURCE = Path(__file__).with_name("reader.c")
ERROR_SHARE, ERROR_S = 0.01, 0.0005
BUSY_ERROR_SHARE = 0.02
GAP_ERROR_S = 0.001
COST_LIMIT, RUN_COST_LIMIT, HELD_LIMIT = 1.5, 2.5, 0.97


@dataclass(frozen=True, slots=True)
class Least:
    """What the reader in C saw: times in seconds."""

    ttft_s: float
    ttft_true_s: float
    token_rate: float
    cpu_s_per_token: float


def build_reader(folder: Path) -> Path:
    """Compile the reader with this machine's C compiler."""
    program = folder / "reader"
    subprocess.run([os.environ.get("CC", "gcc"), "-O2", "-Wall", "-o", str(program), str(SOURCE)], check=True)
    return program


def read_in_c(program: Path, streams: int, folder: Path) -> Least:
    """Run the reader against a reference server of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "truth.npz"
    raise_file_limit()
    with started(BEAT, log, life_s=120) as server:
        words = (server.url.rsplit(":", 1)[1], streams, ROUNDS, TOKENS)
        done = subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return Least(found["ttft_kernel_s"], _ttft_s(read(log)), found["token_rate"], found["cpu_s_per_token"])


def _ttft_s(sent: GroundTruth) -> float:
    return float(sent.ttft_ns.mean()) / NS_PER_S


def stamps(folder: Path) -> Iterator[Number]:
    """Closed loops of 100, 500 and 1000 streams on a machine of their own, and beside other work."""
    folder.mkdir(parents=True)
    program = build_reader(folder)
    for streams in STREAMS:
        least = read_in_c(program, streams, folder / f"least{streams}")
        found = _ours(streams, folder / f"ours{streams}")
        yield from _beside(f"{streams} closed streams", least, found)
    yield _whole_run(least, found, _ours(STREAMS[-1], folder / "twice", 2 * ROUNDS))
    yield from _busy(program, folder)
    for streams in STREAMS:
        yield from peers(BEAT, folder / f"peers{streams}", TOKENS, streams, streams * ROUNDS)


def _ours(streams: int, folder: Path, rounds: int = ROUNDS) -> Ran:
    load = f"closed: {{concurrency: {streams}, requests: {streams * rounds}}}"
    return ran(scenario(f"stamps{streams}", load, TOKENS), BEAT, folder)


def _busy(program: Path, folder: Path) -> Iterator[Number]:
    """Both cores half busy with other work."""
    with burning(os.cpu_count() or 2, 0.5):
        for streams in STREAMS:
            least = read_in_c(program, streams, folder / f"least-busy{streams}")
            found = _ours(streams, folder / f"ours-busy{streams}")
            yield from _beside_others(f"{streams} streams, cores half busy", least, found)


def _beside(name: str, least: Least, found: Ran) -> Iterator[Number]:
    """On a machine of its own a client has to be exact, quick and cheap."""
    exact, ttft, gap = _numbers(name, found)
    limit_s = max(ERROR_S, ERROR_SHARE * ttft.true_s)
    yield _near(name, "mean TTFT", ttft, limit_s, met=abs(ttft.error_s) <= limit_s)
    yield _c_reader(name, least)
    yield _near(name, "chunk gap p99", gap, GAP_ERROR_S, met=abs(gap.error_s) <= GAP_ERROR_S)
    held = exact.token_rate / least.token_rate
    rate = f"{format_share(held)} ({format_rate(exact.token_rate, 'tokens/s')})"
    target = f"≥ {format_share(HELD_LIMIT)} of the {format_rate(least.token_rate, 'tokens/s')} of the C reader"
    yield Number(name, "rate held", target, rate, held >= HELD_LIMIT)
    yield _cost(name, "client CPU a token, send and receive", COST_LIMIT, exact.cpu_s_per_token, least)


def _beside_others(name: str, least: Least, found: Ran) -> Iterator[Number]:
    """Where nobody can be exact, a result has to be near, or to say how far off it may be, or that it is invalid."""
    valid = bool(found.summary["verdict"]["valid"])
    _, ttft, gap = _numbers(name, found)
    for what, number in (("mean TTFT", ttft), ("chunk gap p99", gap)):
        limit_s = max(ERROR_S, BUSY_ERROR_SHARE * number.true_s)
        said = ("" if valid else ", invalid") + f", says ± {format_duration(number.bound_s)}"
        yield _near(name, what, number, limit_s, said, met=not valid or abs(number.error_s) <= limit_s + number.bound_s)
    yield _c_reader(name, least)


def _numbers(name: str, found: Ran) -> tuple[Exactness, CheckedNumber, CheckedNumber]:
    checked = found.checked
    exact = found.exactness(int(name.split(maxsplit=1)[0]))
    return exact, checked.number("ttft", "mean"), checked.number("chunk_gap", "p99")


def _near(name: str, what: str, number: CheckedNumber, limit_s: float, said: str = "", *, met: bool) -> Number:
    shown = f"{format_duration(number.value_s)} ({_signed(number.error_s)}{said})"
    beyond = " and what it says, or invalid" if said else ""
    target = f"within {format_duration(limit_s)} of the {format_duration(number.true_s)} sent{beyond}"
    return Number(name, what, target, shown, met)


def _c_reader(name: str, least: Least) -> Number:
    shown = f"{format_duration(least.ttft_s)} ({_signed(least.ttft_s - least.ttft_true_s)})"
    return Number(name, "mean TTFT, C reader", "as is", shown, met=True)


def _whole_run(least: Least, once: Ran, twice: Ran) -> Number:
    """What a further token costs all processes, decoding, summary and page included: twice the load less once."""
    tokens = int(twice.requests.output_tokens.sum() - once.requests.output_tokens.sum())
    cost_s = (twice.cpu_s - once.cpu_s) / tokens
    return _cost(f"{STREAMS[-1]} closed streams", "CPU a further token, whole run", RUN_COST_LIMIT, cost_s, least)


def _cost(name: str, what: str, limit: float, cost_s: float, least: Least) -> Number:
    ratio = cost_s / least.cpu_s_per_token
    shown = f"{format_duration(cost_s)} ({ratio:.2f} ×)"
    target = f"≤ {limit:g} × the {format_duration(least.cpu_s_per_token)} of the C reader"
    return Number(name, what, target, shown, ratio <= limit)


def _signed(error_s: float) -> str:
    return f"{'' if error_s < 0 else '+'}{format_duration(error_s)}"
