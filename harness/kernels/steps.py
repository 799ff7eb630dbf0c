"""Which steps did an engine run, told by the tokens that its requests received?

The engine's own schedule is not in a result folder. But a request that is between its first and its last token takes
part in every step, with what it was sent and what it has received so far in the cache; and one whose first token comes
was prefilled just before. Steps are taken at even distances through the time in which tokens came.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness import store
from harness.errors import ResultError
from harness.records import COMPLETED, Events, Requests

if TYPE_CHECKING:  # a room of its own
    from kernels_bench.axes import StepMix

CHUNK = 2048  # tokens of a prefill that one step takes at most: the engine's default budget
PREFILL_SHARE = 4  # one step of this many is one in which a request was prefilled


def step_mixes(folder: Path, count: int) -> list[StepMix]:
    """`count` steps of a result folder, each with the sequences that took part and the same share of the time.

    Raises:
        ResultError: the folder is no result, or none of its requests received two tokens.
    """
    requests, events = store.read_requests(folder), store.read_events(folder)
    done = np.flatnonzero((requests.status == COMPLETED) & (requests.last_ns > requests.first_ns))
    if not len(done):
        raise ResultError(
            f"{folder}: no request received two tokens; expected a result with answers to take steps from"
        )
    return [_mix(requests, events, number, place) for number, place in enumerate(_moments(requests, done, count))]


def _moments(requests: Requests, done: NDArray[np.int64], count: int) -> list[tuple[int, int | None]]:
    """A time of each step, and the request that was prefilled in it, if any."""
    first_ns, last_ns = requests.first_ns[done], requests.last_ns[done]
    # Even distances in busy time: between tokens of one request or another, idle gaps left out.
    spans = np.sort(np.stack([first_ns, last_ns]), axis=1)
    grid = np.linspace(spans[0].min(), spans[1].max(), 4096)
    busy = grid[[bool(((first_ns <= at) & (at <= last_ns)).any()) for at in grid]]
    times = busy[np.linspace(0, len(busy) - 1, count + 2).astype(int)][1:-1]
    moments: list[tuple[int, int | None]] = [(int(at), None) for at in times]
    for place in range(PREFILL_SHARE - 1, count, PREFILL_SHARE):
        began = int(done[np.argmin(np.abs(first_ns - times[place]))])
        moments[place] = (int(requests.first_ns[began]), began)
    return moments


def _mix(requests: Requests, events: Events, number: int, place: tuple[int, int | None]) -> StepMix:
    from kernels_bench.axes import StepMix  # noqa: PLC0415 - a room of its own

    at_ns, prefilled = place
    running = np.flatnonzero((requests.first_ns >= 0) & (requests.first_ns <= at_ns) & (requests.last_ns > at_ns))
    kv = [_cached(requests, events, int(row), at_ns) for row in running if row != prefilled]
    query = [1] * len(kv)
    if prefilled is not None or not kv:
        row = int(running[0]) if prefilled is None else prefilled
        length = max(1, _input(requests, row))
        kv.append(length)
        query.append(min(length, CHUNK))
    return StepMix(f"step {number + 1}: {len(kv)} sequences", tuple(query), tuple(kv))


def _cached(requests: Requests, events: Events, row: int, at_ns: int) -> int:
    """Tokens of a request in the cache at a time: its prompt and what had come of its answer."""
    own = slice(int(events.offsets[row]), int(events.offsets[row + 1]))
    come = events.tokens[own][events.at_ns[own] <= at_ns]
    return max(1, _input(requests, row) + int(come.sum()))


def _input(requests: Requests, row: int) -> int:
    counted = int(requests.input_tokens[row])
    return counted if counted > 0 else int(requests.input_asked[row])
