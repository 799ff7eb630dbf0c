"""The journal of a worker decoded to columns, and how exactly each answer is stamped.

The kernel stamps the last byte of a read. An event that was read together with a later one is known to have come
no later than that, and no earlier than the first byte may have: the spread of its read.
"""

import os
import signal
import threading
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.client import answer_decoding
from harness.client.journal import Frame, answers_size, frame_starts, read_frames
from harness.results.request_table import ANSWER_COLUMNS, MISSING, SERVER_COLUMNS
from harness.safety.redaction import register_secrets, registered_secrets
from harness.workload.forms import FormCheck


@dataclass(frozen=True, slots=True)
class StampQuality:
    """What is uncertain about one answer's stamps, in ns.

    `first_bound_ns` is how much earlier than its stamp the first token event may have come, `late_ns` how late the
    latest read was, and `blurred` how many token events came in a late read together with a later one.
    """

    first_bound_ns: int
    late_ns: int
    blurred: int


UNKNOWN = StampQuality(MISSING, MISSING, MISSING)
"""Of an answer without the kernel's stamps."""


def stamp_quality(
    at_ns: Sequence[int], sent_ns: int, stamps: Sequence[int], lates: Sequence[int], spreads: Sequence[int]
) -> StampQuality:
    """The uncertainty of an answer whose token events arrived `at_ns`, from its reads.

    Args:
        at_ns: the stamp of each token event, nondecreasing; that of the read that completed it.
        sent_ns: when the request had left.
        stamps: the stamp of each read.
        lates: how much later than its stamp each was read; negative where the kernel gave none.
        spreads: number and spread of reads that were late, flat: number, spread, number, spread.
    """
    if not lates or min(lates) < 0:
        return UNKNOWN
    late_ns = max(lates)
    if not spreads:
        return StampQuality(0, late_ns, 0)
    first_bound_ns = blurred = 0
    for place, spread_ns in zip(spreads[::2], spreads[1::2], strict=True):
        stamp_ns = stamps[place]
        begin = bisect_left(at_ns, stamp_ns)
        count = bisect_left(at_ns, stamp_ns + 1) - begin
        if count < 2:
            continue
        blurred += count - 1
        if begin == 0:
            before_ns = stamps[place - 1] if place else sent_ns
            first_bound_ns = max(0, min(spread_ns, stamp_ns - before_ns))
    return StampQuality(first_bound_ns, late_ns, blurred)


_WORTH_A_PROCESS = 128 << 20  # bytes of answers that take longer to decode than a process to start
INTEGERS = (
    "seq", "ready_ns", "sent_ns", "first_ns", "last_ns", "done_ns", "connect_ns", "resends", "input_tokens",
    "cached_tokens", "output_tokens", "first_tokens", "events", "http_status", "sent_bound_ns", "first_bound_ns",
    "late_ns", "blurred", *SERVER_COLUMNS, *ANSWER_COLUMNS,
)  # fmt: skip
TEXTS = ("counted_by", "error", "message")
_NOT_TOLD = (MISSING,) * len(SERVER_COLUMNS)


@dataclass(frozen=True, slots=True)
class DecodedAnswers:
    """Answers as columns, in the order of their ends; `integers` by name, int64, times absolute ns.

    Row i owns the next `integers["events"][i]` entries of `at_ns` (int64) and `tokens` (int32).
    """

    integers: dict[str, NDArray[np.int64]]
    texts: dict[str, list[str]]
    at_ns: NDArray[np.int64]
    tokens: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class AskedForms:
    """The forms that answers of a journal were asked for: of each class by its number, and the class by `seq`."""

    forms: tuple[str, ...]
    classes: NDArray[np.int64]
    check: FormCheck

    def kept(self, seq: int, answer: answer_decoding.DecodedAnswer) -> int:
        """1 where an answer keeps its form, 0 where it does not, MISSING where it has none."""
        number = int(self.classes[seq])
        form = self.forms[number] if 0 <= number < len(self.forms) else ""
        return self.check.holds(form, answer.text, answer.calls) if form else MISSING


def decode_journal(path: Path, forms: AskedForms | None = None) -> DecodedAnswers:
    """All answers of a journal; several processes share a large one. `forms` are checked where they were asked for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    parts = max(1, min(cores, answers_size(path) // _WORTH_A_PROCESS))
    if parts == 1:
        return decode_part(path, 0, None, forms)
    ranges = frame_starts(path, parts)
    with ProcessPoolExecutor(
        len(ranges), mp_context=get_context("spawn"), initializer=_help, initargs=(registered_secrets(),)
    ) as pool:
        # This process decodes the first part itself while the others do theirs.
        futures = [pool.submit(decode_part, path, start, stop, forms) for start, stop in ranges[1:]]
        first = decode_part(path, *ranges[0], forms)
        try:
            return joined([first, *(future.result() for future in futures)])
        except BrokenProcessPool:  # somebody ended a helper: slower, and whole
            return joined([first, *(decode_part(path, start, stop, forms) for start, stop in ranges[1:])])


def _help(secrets: Mapping[str, str]) -> None:
    """What a helping process does first: know the secrets, leave signals to its parent, and end when that is gone."""
    register_secrets(secrets)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def decode_part(path: Path, start: int, stop: int | None, forms: AskedForms | None = None) -> DecodedAnswers:
    """The answers whose frames begin in a byte range of a journal."""
    integers = {name: array("q") for name in INTEGERS}
    texts: dict[str, list[str]] = {name: [] for name in TEXTS}
    at_ns, tokens = array("q"), array("i")
    columns = [integers[name] for name in INTEGERS]
    for frame in read_frames(path, start, stop):
        answer = answer_decoding.decode(frame.pieces, frame.stamps, frame.failure, frame.message)
        for column, value in zip(columns, _row(frame, answer, forms), strict=True):
            column.append(value)
        texts["counted_by"].append(answer.counted_by)
        texts["error"].append(answer.error)
        texts["message"].append(answer.message)
        at_ns.fromlist(list(answer.at_ns))  # takes half the time that extend takes
        tokens.fromlist(list(answer.tokens))
    return DecodedAnswers(
        {name: np.array(integers[name], dtype=np.int64) for name in INTEGERS},
        texts,
        np.array(at_ns, dtype=np.int64),
        np.array(tokens, dtype=np.int32),
    )


def _row(frame: Frame, answer: answer_decoding.DecodedAnswer, forms: AskedForms | None) -> tuple[int, ...]:
    at_ns = answer.at_ns
    streamed = bool(at_ns) and answer.streamed
    exact = stamp_quality(at_ns, frame.sent_ns, frame.stamps, frame.lates, frame.spreads)
    return (
        frame.seq,
        frame.ready_ns,
        frame.sent_ns,
        at_ns[0] if streamed else MISSING,  # a body that comes whole has no first token of its own
        at_ns[-1] if at_ns else MISSING,
        frame.done_ns,
        frame.connect_ns,
        frame.resends,
        answer.input_tokens,
        answer.cached_tokens,
        answer.output_tokens,
        answer.tokens[0] if streamed else 0,
        len(at_ns),
        answer.http_status,
        frame.sent_bound_ns,
        exact.first_bound_ns,
        exact.late_ns,
        exact.blurred,
        *(answer.by_server or _NOT_TOLD),
        answer.image_tokens,
        answer.answer_ns if streamed else MISSING,
        answer.reasoning_tokens if at_ns else MISSING,
        answer.documents,
        MISSING if forms is None or answer.error else forms.kept(frame.seq, answer),
    )


def joined(parts: Sequence[DecodedAnswers]) -> DecodedAnswers:
    """The answers of one part after those of another."""
    return DecodedAnswers(
        {name: np.concatenate([part.integers[name] for part in parts]) for name in INTEGERS},
        {name: [text for part in parts for text in part.texts[name]] for name in TEXTS},
        np.concatenate([part.at_ns for part in parts]),
        np.concatenate([part.tokens for part in parts]),
    )
