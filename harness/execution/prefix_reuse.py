"""How much of each prompt an unbounded prefix cache would have held, worked out again from a run's raw files.

The prompts are made once more from the scenario and the seed, with the answers that later turns repeat; so the client
has nothing to do for it while it sends. Of prompts that are texts the tokens are not known, and so nothing is said.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from harness.client import answer_decoding
from harness.client.journal import read_frames, read_sent, worker_journals
from harness.client.request_builder import RequestBuilder
from harness.engines import RunningEngine
from harness.errors import HarnessError
from harness.results import store
from harness.results.request_table import COLUMNS, MISSING, PRIMING, Requests, requests_from_columns
from harness.scenario.deployment import PREFILL, PROXY
from harness.scenario.models import Scenario
from harness.scenario.workload import RANDOM
from harness.workload import Reply, TokenPrompt, Workload
from harness.workload.prefix_cache import CachedPrompt, Hashes, block_hashes, reusable_tokens

MOST_TOKENS = 400_000_000  # of all prompts of a run: more take minutes to be made again
JOB = "job.json"
_PARALLEL = ("decode_context_parallel_size", "prefill_context_parallel_size")  # each rank holds a part of a block

TurnKey = tuple[int, int, int, int]
"""Repeat, stage, session and turn of a request."""


def cache_block_size(serving: RunningEngine) -> int | None:
    """The tokens of a block of the engine's prefix cache; of several processes those of the first that has one."""
    parts = [process.configuration for process in serving.processes if process.role != PROXY]
    for values in (part.effective for part in (serving.configuration, *parts)):
        size = values.get("block_size")
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            for flag in _PARALLEL:
                factor = values.get(flag)
                size *= factor if isinstance(factor, int) and factor > 1 else 1
            return size
    return None


@dataclass(frozen=True, slots=True)
class PrimingReach:
    """How the engines of a server are reached by requests that prime: each beginning is sent `copies` times at once.

    `by_rank`: each copy names its rank of data parallelism, so that every one gets it. Else the server or proxy that
    spreads requests decides, and the engines' counters show whether each was reached.
    """

    copies: int = 1
    by_rank: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As JSON, for those who write the requests."""
        return {"copies": self.copies, "by_rank": self.by_rank}


def priming_reach(serving: RunningEngine) -> PrimingReach:
    """How every cache behind a server's address is reached, as far as a client can."""
    members = serving.processes
    engines = [member for member in members if member.role == PREFILL] or [m for m in members if m.role != PROXY]
    if len(members) > 1:  # behind a proxy, which need not pass a rank on
        return PrimingReach(sum(_ranks(engine.configuration.effective) for engine in engines))
    own = engines[0].configuration if engines else serving.configuration
    return PrimingReach(_ranks(own.effective), by_rank=_ranks(own.effective) > 1)


def _ranks(values: Mapping[str, Any]) -> int:
    ranks = values.get("data_parallel_size")
    return ranks if isinstance(ranks, int) and ranks > 1 else 1


def with_reusable_tokens(folder: Path, requests: Requests) -> Requests:
    """The requests with their `reusable_tokens`, MISSING of all where one prompt's tokens are not known."""
    run = store.read_run(folder) if (folder / store.RUN).exists() else {}
    size = (run.get("prefix") or {}).get("block_size")
    sent = np.flatnonzero(requests.sent_ns != MISSING)
    if not size or not len(sent):
        return requests
    values = np.full(len(requests), MISSING, dtype=np.int64)
    if run.get("shares_prompts") or run.get("text") not in (None, RANDOM):  # passages of a text may be alike
        known = _known(folder / store.RAW, requests, sent[np.argsort(requests.sent_ns[sent], kind="stable")], size)
        if known is not None:
            rows, reusable = known
            values[rows] = reusable
    else:
        values[sent] = 0  # random tokens share no block
    columns = {name: getattr(requests, name) for name in COLUMNS}
    return requests_from_columns({**columns, "reusable_tokens": values})


def _known(
    raw: Path, requests: Requests, rows: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """What an unbounded cache holds of these rows, in the order of sending; None where a prompt is not known."""
    if int(np.maximum(requests.input_asked[rows], requests.input_tokens[rows]).sum()) > MOST_TOKENS:
        return None
    try:
        job = store.read_json(raw, JOB)
        builder = RequestBuilder(job, Scenario.model_validate(job["scenario"]))
        prompts = list(_prompts(_Source(raw, builder.workload, size), requests, rows))
    except (HarnessError, OSError):  # a data file that has gone since, or an environment without the server's key
        return None
    known = [prompt for prompt in prompts if prompt is not None]
    return (rows, reusable_tokens(known, size)) if len(known) == len(prompts) else None


@dataclass(frozen=True, slots=True)
class _Source:
    """What prompts are made of again: the workload, the answers, and the size of a block."""

    raw: Path
    workload: Workload
    size: int

    def replies(self) -> dict[TurnKey, Reply]:
        """The answers that later turns repeat, by request; none where each session has one turn."""
        return {} if self.workload.single_turn else dict(_replies(self.raw))


def _replies(raw: Path) -> Iterator[tuple[TurnKey, Reply]]:
    for sent, answers in worker_journals(raw):
        rows = read_sent(sent)
        for frame in read_frames(answers):
            row, answer = (
                rows[frame.seq],
                answer_decoding.decode(frame.pieces, frame.stamps, frame.failure, frame.message),
            )
            key = (int(row["repeat"]), int(row["stage"]), int(row["session"]), int(row["turn"]))
            yield key, Reply(answer.token_ids, answer.text)


def _prompts(source: _Source, requests: Requests, rows: NDArray[np.int64]) -> Iterator[CachedPrompt | None]:
    """Each prompt's blocks and, where a later turn may repeat it, its answer's; None where they are not known."""
    replies = source.replies()
    names = ("repeat", "stage", "session", "turn", "request_class", "sent_ns", "done_ns")
    primes, salts = (requests.phase[rows] == PRIMING).tolist(), _salts(source.workload)
    columns = zip(*(getattr(requests, name)[rows].tolist() for name in names), strict=True)
    for is_priming, (*place, request_class, sent_ns, done_ns) in zip(primes, columns, strict=True):
        key: TurnKey = (place[0], place[1], place[2], place[3])
        if is_priming and source.workload.priming is not None:
            prompt = source.workload.priming.prompt(key[2], 0, ())
        else:
            prompt = source.workload.prompt(key[2], key[3], _history(replies, key))
        if not isinstance(prompt, TokenPrompt):
            yield None
            continue
        hashes = _blocks(prompt.ids, replies.get(key), source.size, salts[max(0, request_class)])
        yield CachedPrompt(len(prompt.ids), hashes, sent_ns, done_ns if done_ns != MISSING else sent_ns)


def _history(replies: Mapping[TurnKey, Reply], key: TurnKey) -> tuple[Reply, ...]:
    """The answers to the turns before one, as far as there are any without a gap."""
    repeat, stage, session, turn = key
    before = (replies.get((repeat, stage, session, number)) for number in range(turn))
    return tuple(reply for reply in before if reply is not None)


def _salts(workload: Workload) -> list[int]:
    """A number for the model or adapter that the requests of each class name: the blocks of each are its own."""
    return [crc32(each.model.encode()) if each.model else 0 for each in workload.mix.classes]


def _blocks(ids: NDArray[np.int32], answer: Reply | None, size: int, salt: int) -> Hashes:
    """The hashes of a prompt and of its computed answer: all but the last token, which was only sampled."""
    if answer is None or not answer.token_ids:
        return block_hashes(ids, size, salt)
    return block_hashes(np.concatenate([ids, np.asarray(answer.token_ids[:-1], dtype=np.int32)]), size, salt)
