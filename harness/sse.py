"""When did which tokens of an answer arrive?

Pure: the raw bytes of one answer and the stamp of each socket read become token events, the
server's own counts, and a failure name. Runs after the stream has ended, never while others
are being stamped. An event's arrival is the stamp of the read that completed it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness import bounds, http1
from harness.records import ASSUMED, FROM_TOKEN_IDS, FROM_USAGE, MISSING

MESSAGE_CHARS = 300
_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DONE = b"[DONE]"


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    token_ids: list[int] | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None
    message: str | None = None
    malformed: str | None = msgspec.field(default=None, name="npu-harness malformed")  # ours, not the server's


_decode = msgspec.json.Decoder(_Event).decode
_decode_all = msgspec.json.Decoder(list[_Event]).decode


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer said: its token events (stamp in ns, tokens), counts, reply, and failure name."""

    http_status: int = MISSING
    at_ns: Sequence[int] = ()
    tokens: Sequence[int] = ()
    input_tokens: int = MISSING
    cached_tokens: int = MISSING
    output_tokens: int = 0
    counted_by: str = ASSUMED
    token_ids: tuple[int, ...] | None = None
    text: str = ""
    streamed: bool = False
    error: str = ""
    message: str = ""


def decode(pieces: Sequence[bytes], stamps: Sequence[int], failure: str = "", message: str = "") -> Answer:
    """The answer in `pieces`, read at `stamps` (ns); `failure` is what the wire says went wrong, if anything."""
    raw = b"".join(pieces)
    try:
        head = http1.final_head(raw)
        if head is None:
            return Answer(error=failure or "truncated", message=message or "the answer ended inside its head")
        body = http1.body_of(raw, head)
    except http1.BadHttpError as fault:
        return Answer(error=failure or "bad_http", message=message or str(fault))
    if not failure and not body.complete and head.framing != http1.CLOSE:
        failure, message = "truncated", "the connection closed before the answer was complete"
    ends = np.cumsum([len(piece) for piece in pieces])
    reads = _Reads(raw, body, np.asarray(stamps, dtype=np.int64), ends)
    if head.status != 200:
        return _refusal(head, reads, failure, message)
    if head.content_type == "text/event-stream":
        return _stream(reads, failure, message)
    return _whole(head, reads, failure, message)


class _Reads:
    """An answer's body with the way back from a position in it to the read that brought it."""

    __slots__ = ("_body_ends", "_chunk_starts", "_piece_ends", "_stamps", "body")

    def __init__(self, raw: bytes, body: http1.Body, stamps: NDArray[np.int64], piece_ends: NDArray[np.int64]) -> None:
        self.body = b"".join([raw[start:end] for start, end in zip(body.starts, body.ends, strict=True)])
        self._chunk_starts = np.asarray(body.starts, dtype=np.int64)
        self._body_ends = np.cumsum(np.asarray(body.ends, dtype=np.int64) - self._chunk_starts)
        self._stamps = stamps
        self._piece_ends = piece_ends

    def stamps_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Stamp (ns) of the read that brought the byte before each position of the body."""
        chunk = np.searchsorted(self._body_ends, positions, side="left")
        back = self._body_ends[chunk] - positions
        raw_positions = self._chunk_starts[chunk] + self._length(chunk) - back
        return self._stamps[np.searchsorted(self._piece_ends, raw_positions, side="left")]

    def _length(self, chunk: NDArray[np.int64]) -> NDArray[np.int64]:
        starts = np.concatenate([[0], self._body_ends[:-1]])
        return np.asarray(self._body_ends[chunk] - starts[chunk])

    @property
    def last_stamp(self) -> int:
        """Stamp (ns) of the last read."""
        return int(self._stamps[-1])


def _refusal(head: http1.Head, reads: _Reads, failure: str, message: str) -> Answer:
    words = _server_words(reads.body[: bounds.KEPT_BYTES])
    if 300 <= head.status < 400 and head.location:
        words = one_line(f"redirects to {head.location}: expected that address where this one is given")
    return Answer(http_status=head.status, error=failure or f"http_{head.status}", message=message or words)


def _server_words(body: bytes) -> str:
    """The server's own message in an error body: JSON in any of the usual forms, or its first line."""
    try:
        told = bounds.json_of(body)
    except ValueError:
        return one_line(body.decode("utf-8", "replace"))
    while isinstance(told, dict):
        inner = told.get("error") or told.get("message") or told.get("detail")
        if inner is None:
            break
        told = inner
    return one_line(told if isinstance(told, str) else msgspec.json.encode(told).decode())


def one_line(text: str) -> str:
    """A text cut to one line of at most MESSAGE_CHARS characters."""
    return " ".join(text.split())[:MESSAGE_CHARS]


def _whole(head: http1.Head, reads: _Reads, failure: str, message: str) -> Answer:
    """An answer that came in one JSON body: all its tokens arrive with its last byte."""
    try:
        event = _decode(reads.body)
    except msgspec.DecodeError:
        shown = one_line(reads.body[:120].decode("utf-8", "replace"))
        return Answer(
            http_status=head.status,
            error=failure or "not_json",
            message=message or f"{head.content_type or 'a body of no type'} where JSON was expected: {shown}",
        )
    parsed = _Parsed()
    parsed.take(event, 0)
    stamps = np.asarray([reads.last_stamp] * len(parsed.rows), dtype=np.int64)
    return parsed.answer(stamps, failure, message, ended=True)


def _stream(reads: _Reads, failure: str, message: str) -> Answer:
    blocks, positions = _blocks(reads.body)
    datas = [block[6:] if block.startswith(b"data: ") and b"\n" not in block else _data_of(block) for block in blocks]
    rows = [row for row, data in enumerate(datas) if data and data != _DONE]
    parsed = _Parsed()
    take = parsed.take
    for row, event in zip(rows, _events([datas[row] for row in rows]), strict=True):
        take(event, row)
    stamps = reads.stamps_at(positions[parsed.rows]) if parsed.rows else np.zeros(0, dtype=np.int64)
    return replace(parsed.answer(stamps, failure, message, ended=_DONE in datas), streamed=True)


def _events(datas: list[bytes]) -> list[_Event]:
    """Events from their JSON: all in one call, which is much faster; one by one where any is malformed."""
    try:
        events = _decode_all(b"[" + b",".join(datas) + b"]")
    except msgspec.DecodeError:
        events = []
    return events if len(events) == len(datas) else [_event(data) for data in datas]


def _event(data: bytes) -> _Event:
    try:
        return _decode(data)
    except msgspec.DecodeError as fault:
        shown = one_line(data[:80].decode("utf-8", "replace"))
        return _Event(malformed=f"{one_line(str(fault))} in {shown}")


def _blocks(body: bytes) -> tuple[list[bytes], NDArray[np.int64]]:
    """The events of a stream as raw blocks, and the position in the body where each was complete."""
    if b"\r" not in body:
        blocks = body.split(b"\n\n")
        lengths = np.fromiter(map(len, blocks), dtype=np.int64, count=len(blocks)) + 2
        return blocks[:-1], np.cumsum(lengths)[:-1]
    ends = [(match.start(), match.end()) for match in _EVENT_END.finditer(body)]
    starts = [0, *(end for _, end in ends)]
    blocks = [body[start:stop] for start, (stop, _) in zip(starts, ends, strict=False)]
    return blocks, np.asarray([end for _, end in ends], dtype=np.int64)


def _data_of(block: bytes) -> bytes:
    """The `data` of an event with other fields, several data lines, or comments (WHATWG event streams)."""
    lines = block.splitlines()
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")).strip()


class _Parsed:
    """What the events of one answer have said so far."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.counts: list[int] = []
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.usage: _Usage | None = None
        self.counted_by = ""
        self.error = self.message = ""

    def fail(self, error: str, message: str) -> None:
        """The first thing that went wrong is the one that is told."""
        if not self.error:
            self.error, self.message = error, message

    def take(self, event: _Event, row: int) -> None:
        """Count the tokens of one event, the `row`-th of its stream, and keep what it says."""
        if event.error is not None or event.malformed is not None or event.object == "error":
            self._take_failure(event)
            return
        choices, usage = event.choices, event.usage
        content, ids = _content(choices) if choices else ("", None)
        count = self._tokens(usage, ids, has_content=bool(content))
        if usage is not None:
            self.usage = usage
        if choices and count > 0:
            self.rows.append(row)
            self.counts.append(count)
        self.texts.append(content)
        if ids:
            self.token_ids += ids

    def _take_failure(self, event: _Event) -> None:
        if event.malformed is not None:
            self.fail("bad_event", event.malformed)
        else:
            self.fail("stream_error", _server_words(msgspec.json.encode(event.error or event.message or "error")))

    def _tokens(self, usage: _Usage | None, ids: list[int] | None, *, has_content: bool) -> int:
        if ids is not None:
            self.counted_by = FROM_TOKEN_IDS
            return len(ids)
        if usage is not None and usage.completion_tokens is not None and self.counted_by in ("", FROM_USAGE):
            self.counted_by = FROM_USAGE
            before = self.usage.completion_tokens if self.usage and self.usage.completion_tokens else 0
            return usage.completion_tokens - before
        if has_content and not self.counted_by:
            self.counted_by = ASSUMED
        return 1 if has_content else 0

    def answer(self, stamps: NDArray[np.int64], failure: str, message: str, *, ended: bool) -> Answer:
        """Everything said, with the failure that stands above all others."""
        usage = self.usage or _Usage()
        total = usage.completion_tokens if usage.completion_tokens is not None else sum(self.counts)
        if not (failure or self.error):
            if not ended:
                failure, message = "truncated", "the stream ended without [DONE]"
            elif total == 0:
                failure, message = "no_tokens", "the answer carried no token"
        details = usage.prompt_tokens_details
        return Answer(
            http_status=200,
            at_ns=stamps.tolist(),
            tokens=_spread(self.counts, total) if self.counted_by == ASSUMED else self.counts,
            input_tokens=MISSING if usage.prompt_tokens is None else usage.prompt_tokens,
            cached_tokens=MISSING if details is None or details.cached_tokens is None else details.cached_tokens,
            output_tokens=total,
            counted_by=self.counted_by or ASSUMED,
            token_ids=tuple(self.token_ids) if self.token_ids else None,
            text="".join(self.texts),
            error=failure or self.error,
            message=message or self.message,
        )


def _content(choices: list[_Choice]) -> tuple[str, list[int] | None]:
    """Text (or a mark that there is content) and token ids of an event's choices."""
    choice = choices[0]
    text = choice.text
    if text is None and (said := choice.delta or choice.message) is not None:
        text = said.content or said.reasoning or said.reasoning_content or ("\0" if said.tool_calls else "")
    return text or "", choice.token_ids


def _spread(counts: list[int], total: int) -> list[int]:
    """Assumed counts (one an event) made to sum to the server's total, evenly over the events."""
    if not counts or total <= 0 or sum(counts) == total:
        return counts
    marks = np.linspace(0, total, len(counts) + 1).round().astype(int)
    return [int(n) for n in np.diff(marks)]
