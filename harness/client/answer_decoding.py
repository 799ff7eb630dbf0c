"""Answers decoded: which tokens arrived when, counts, and what failed.

Pure: the raw bytes of one answer and the stamp of each socket read become token events, the
server's own counts, and a failure name. Runs after the stream has ended, never while others
are being stamped. An event's arrival is the stamp of the read that completed it. What kind of
answer it is, and whether it is whole, is told by its bytes before its headers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.client import event_stream, http1
from harness.client.dialects import is_of_responses, pooled_answer, response_events, whole_response
from harness.client.event_stream import BOM, DONE, Batch, Reads, UnreadableError
from harness.client.events import SOMETHING, StreamEvent, event_of, events_of, failure_of, one_line, words_of
from harness.client.token_counting import AnswerContents, TokenCounts, count
from harness.results.request_table import ASSUMED, FROM_EVENTS, MISSING
from harness.safety import bounds

_CUT = ("truncated", "reset")  # what the transport says of a connection that closed inside an answer


@dataclass(frozen=True, slots=True)
class DecodedAnswer:
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
    answer_ns: int = MISSING  # the first token that is no reasoning
    reasoning_tokens: int = MISSING
    image_tokens: int = MISSING
    documents: int = MISSING  # of an answer without tokens
    calls: tuple[tuple[str, str], ...] = ()  # of tools: name and arguments
    by_server: tuple[int, ...] | None = None  # what the server measured of it, in the order of SERVER_COLUMNS


def decode(pieces: Sequence[bytes], stamps: Sequence[int], failure: str = "", message: str = "") -> DecodedAnswer:
    """The answer in `pieces`, read at `stamps` (ns); `failure` is what the transport says went wrong, if anything."""
    raw = b"".join(pieces)
    try:
        head = http1.usual_head(raw)
        if head is None:
            return DecodedAnswer(error=failure or "truncated", message=message or "the answer ended inside its head")
        ends = np.cumsum(np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces)))
        if head.framing == http1.CHUNKED and head.status // 100 == 2 and not head.encoding and not failure:
            plain = event_stream.events_in_chunks(raw, head.size)
            if plain is not None:
                reads = Reads(raw, ends, np.asarray(stamps, dtype=np.int64))
                return _stream(head.status, [(*plain, False)], reads, ("", message))
        reads, complete = _reads(raw, head, ends, stamps)
    except http1.BadHttpError as fault:
        return DecodedAnswer(error=failure or "bad_http", message=message or str(fault))
    del raw  # a long answer's copies are not all needed at once
    if not failure and not complete and head.framing != http1.CLOSE:
        failure, message = "truncated", "the connection closed before the answer was complete"
    try:
        reads = event_stream.unpacked(reads, head.encoding) if head.encoding and reads.body else reads
        decoded = _read_answer if head.status // 100 == 2 else _refusal
        return decoded(head, reads, failure, message)
    except UnreadableError as fault:
        name = fault.name if head.status // 100 == 2 else f"http_{head.status}"
        return DecodedAnswer(http_status=head.status, error=failure or name, message=message or str(fault))


def _reads(raw: bytes, head: http1.ResponseHead, ends: NDArray[np.int64], stamps: Sequence[int]) -> tuple[Reads, bool]:
    """The body of an answer with its stamps, and whether it is complete.

    Raises:
        http1.BadHttpError: where its framing is malformed.
    """
    if head.framing == http1.CHUNKED:
        plain = event_stream.plain_reads(raw, head.size, ends, stamps)
        if plain is not None:
            return plain, True
    framed = http1.body_of(raw, head)
    return event_stream.reads_of(raw, framed, ends, stamps), framed.complete


def _refusal(head: http1.ResponseHead, reads: Reads, failure: str, message: str) -> DecodedAnswer:
    words = _server_words(reads.body[: bounds.KEPT_BYTES])
    if 300 <= head.status < 400 and head.location:
        words = one_line(f"redirects to {head.location}: expected that address where this one is given")
    if head.status in (400, 422):
        from harness.client import payload  # noqa: PLC0415 - loads scenarios, which whoever only decodes never needs

        words += payload.advice(words)
    return DecodedAnswer(http_status=head.status, error=failure or f"http_{head.status}", message=message or words)


def _server_words(body: bytes) -> str:
    """The server's own message in an error body: JSON in any of the usual forms, or its first line."""
    try:
        return words_of(bounds.json_of(body))
    except ValueError:
        return one_line(body.decode("utf-8", "replace"))


def _read_answer(head: http1.ResponseHead, reads: Reads, failure: str, message: str) -> DecodedAnswer:
    """An answer of a good status: a stream where its body begins as one, else one JSON value."""
    start = len(BOM) if reads.body.startswith(BOM) else 0
    body = reads.body[start:] if start else reads.body
    if event_stream.begins_as_stream(body):
        return _stream(head.status, event_stream.batches(reads.body, start), reads, (failure, message))
    pooled = None if failure else pooled_answer(body)
    if pooled is not None:
        return DecodedAnswer(head.status, input_tokens=pooled.input_tokens, documents=pooled.documents)
    event = whole_response(body) or event_of(body)
    if head.content_type == "text/event-stream" and not (event.choices or failure_of(event)):
        return _stream(head.status, event_stream.batches(reads.body, start), reads, (failure, message))
    return _whole(head, reads, event, (failure, message))


def _whole(head: http1.ResponseHead, reads: Reads, event: StreamEvent, failure_seen: tuple[str, str]) -> DecodedAnswer:
    """An answer that came in one JSON body: all its tokens arrive with its last byte."""
    failure, message = failure_seen
    words = failure_of(event)
    if words is None and event.choices is None and event.usage is None:
        shown = one_line(reads.body[: bounds.KEPT_BYTES].decode("utf-8", "replace"), 120)
        reason = f"{head.content_type or 'a body of no type'} where a JSON answer was expected: {shown}"
        if len(reads.body) > bounds.LARGE_BYTES and event.malformed:
            reason = event.malformed
        return DecodedAnswer(http_status=head.status, error=failure or "not_json", message=message or reason)
    whole_contents = AnswerContents()
    whole_contents.take([event], 0)
    contents = _Contents(head.status, whole_contents, "" if words is None else "error_body", words or "", whole=True)
    answer = _answer(contents, np.asarray([reads.last_stamp], dtype=np.int64), failure_seen)
    if not answer.error and answer.counted_by == FROM_EVENTS:
        return replace(
            answer, error="not_counted", message="a whole answer without usage: its tokens cannot be counted"
        )
    return answer


@dataclass(slots=True)
class _Contents:
    """An answer's events in short: what they said, what went wrong first, and whether it was whole."""

    http_status: int
    seen: AnswerContents
    error: str = ""
    message: str = ""
    whole: bool = False
    streamed: bool = False

    def look_for_failures(self, events: Sequence[StreamEvent]) -> None:
        """The first thing that went wrong is the one that is told."""
        for event in events:
            if event.done:
                self.whole = True
            words = failure_of(event)
            if (words is not None or event.malformed is not None) and not self.error:
                self.error = "bad_event" if event.malformed is not None else "stream_error"
                self.message = event.malformed or words or ""


def _stream(http_status: int, batches: Iterable[Batch], reads: Reads, failure_seen: tuple[str, str]) -> DecodedAnswer:
    """An answer that came as events; batches give their places in the body that `reads` have the stamps of."""
    contents, rows, of_responses = _Contents(http_status, AnswerContents(), streamed=True), 0, False
    places: list[NDArray[np.int64]] = []
    for batch in batches:
        datas, ends, done = _events_only(batch)
        of_responses = of_responses or bool(datas and is_of_responses(datas[0]))
        events = response_events(datas) if of_responses else events_of(datas)
        contents.whole = contents.whole or done
        contents.look_for_failures(contents.seen.take(events, rows))
        rows += len(events)
        places.append(ends)
        if rows > bounds.MAX_EVENTS:
            contents.error, contents.message = "too_long", f"the answer has more than {bounds.MAX_EVENTS} events"
            break
    contents.whole = contents.whole or (contents.seen.finished and not failure_seen[0])
    positions = places[0] if len(places) == 1 else np.concatenate([np.zeros(0, dtype=np.int64), *places])
    return _answer(contents, reads.stamps_at(positions), failure_seen)


def _events_only(batch: Batch) -> tuple[list[bytes], NDArray[np.int64], bool]:
    """The data of a batch that are JSON, where each ended, and whether [DONE] was among them."""
    datas, ends, has_tail = batch
    if has_tail and datas[-1] != DONE and event_of(datas[-1]).malformed is not None:
        datas, ends = datas[:-1], ends[:-1]  # the last event was cut: the rest says whether that matters
    if DONE not in datas:
        return datas, ends, False
    if datas.index(DONE) == len(datas) - 1:
        return datas[:-1], ends[:-1], True
    kept = [number for number, data in enumerate(datas) if data != DONE]
    return [datas[number] for number in kept], ends[kept], True


def _answer(contents: _Contents, stamps: NDArray[np.int64], failure_seen: tuple[str, str]) -> DecodedAnswer:
    """Everything said, with the failure that stands above all others; `stamps` are those of all events."""
    seen, counted, (failure, message) = contents.seen, count(contents.seen), failure_seen
    if not failure or (failure in _CUT and (contents.whole or contents.error)):
        failure, message = contents.error, contents.message  # which say more than that the server went away
    if not failure and not contents.whole:
        failure, message = "truncated", "the stream ended without [DONE] or a finish_reason"
    elif not failure and counted.total == 0:
        failure, message = "no_tokens", _without_tokens(seen)
    at_ns = _at_rows(stamps, counted.rows)
    answer_ns, reasoning_tokens = _reasoning(seen, counted, at_ns)
    return DecodedAnswer(
        http_status=contents.http_status,
        at_ns=at_ns,
        tokens=counted.counts,
        input_tokens=seen.input_tokens,
        cached_tokens=seen.cached_tokens,
        output_tokens=counted.total,
        counted_by=counted.counted_by,
        token_ids=tuple(seen.token_ids) if seen.token_ids else None,
        text=_answer_text(seen),
        streamed=contents.streamed,
        error=failure,
        message=message,
        answer_ns=answer_ns,
        reasoning_tokens=reasoning_tokens,
        image_tokens=seen.image_tokens,
        calls=tuple(seen.calls.values()),
        by_server=seen.by_server,
    )


def _reasoning(seen: AnswerContents, counted: TokenCounts, at_ns: Sequence[int]) -> tuple[int, int]:
    """When the first token came that is no reasoning (MISSING: none did), and how many tokens were reasoning.

    The server's own count of them stands above ours, which takes all tokens of an event for one or the other.
    """
    if not seen.reasoning_rows:
        return (at_ns[0] if at_ns else MISSING), max(0, seen.reasoning_tokens)
    reasoning, before = set(seen.reasoning_rows), {*seen.reasoning_rows, *seen.silent_rows}
    answer_ns = next((at for at, row in zip(at_ns, counted.rows, strict=True) if row not in before), MISSING)
    if seen.reasoning_tokens != MISSING:
        return answer_ns, seen.reasoning_tokens
    return answer_ns, sum(n for n, row in zip(counted.counts, counted.rows, strict=True) if row in reasoning)


def _answer_text(seen: AnswerContents) -> str:
    """What an answer says, without its reasoning."""
    texts = seen.texts
    if seen.reasoning_rows:
        reasoning = set(seen.reasoning_rows)
        texts = [text for row, text in zip(seen.rows, texts, strict=True) if row not in reasoning]
    return "".join(texts).replace(SOMETHING, "")


def _at_rows(stamps: NDArray[np.int64], rows: Sequence[int]) -> Sequence[int]:
    """The stamps of some events, whose numbers rise."""
    if not rows:
        return ()
    if rows[-1] - rows[0] == len(rows) - 1:
        return stamps[rows[0] : rows[-1] + 1].tolist()  # type: ignore[no-any-return]
    return stamps[list(rows)].tolist()  # type: ignore[no-any-return]


def _without_tokens(contents: AnswerContents) -> str:
    if contents.total:
        return f"the server counted {contents.total} tokens, but no event carried any"
    return "the answer carried no token"
