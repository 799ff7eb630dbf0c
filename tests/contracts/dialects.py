"""Answers in random dialects: framing, usage, finish, error and line ends drawn apart, and what must be read.

`python -m tests.contracts.dialects 100000 SEED` reads that many and tells the first that is read wrong.
"""

import itertools
import json
import random
import sys
import zlib
from dataclasses import dataclass

from harness.client import answer_decoding

TOTALS = (
    "final",
    "zeros",
    "alone",
    "late",
    "null",
    "some",
    "falling",
)  # a total, and no running usage that can be used
EXACT = ("running", "floats", "ids")
NOTHING = ("none", "negative")  # not even a total
FINISHES = ("both", "done", "finish", "neither")
ERRORS = (
    *(("",) * 6), '{"error": {"message": "dead"}}', '{"detail": "dead"}', '{"object": "error", "message": "dead"}',
    '{"choices": [{"delta": {}, "finish_reason": "error"}]}',
)  # fmt: skip
FIELD_ERRORS = ('error: {"message": "dead"}', 'event: error\ndata: {"message": "dead"}', "event: error\ndata: dead")
NOISE = (": ping", "event: ping\ndata: {}", "id: 3", "data: null", 'data: {"choices": []}', 'data: {"error": null}', "")


@dataclass
class Case:
    """An answer as it is read, what the wire says of it, and what must be found.

    `tokens` is None where only their sum counts, `stamps` where nobody else can tell them.
    """

    pieces: list[bytes]
    failure: str
    error: str
    total: int
    events: int
    tokens: list[int] | None
    stamps: list[int] | None
    what: dict[str, object]


def dialect(rng: random.Random) -> Case:
    """One random answer."""
    what = {
        "usage": rng.choice((*TOTALS, *EXACT, *EXACT, *NOTHING)),
        "finish": rng.choice(FINISHES + ("both",) * 3),
        "eol": rng.choice(("\n", "\n", "\r\n", "\r")),
        "chat": rng.random() < 0.6,
        "content": rng.choice(("text", "text", "reasoning", "parts", "tools")),
        "framing": rng.choice(("chunked", "chunked", "length", "close", "gzip", "deflate", "cut")),
        "single": rng.random() < 0.1,
        "error": rng.choice(ERRORS),
    }
    if not what["single"] and rng.random() < 0.05:
        what["error"] = rng.choice(FIELD_ERRORS)
    if what["single"]:
        what["finish"] = "both"
    counts = [rng.choice((1, 1, 1, 2, 3)) for _ in range(rng.randint(0, 6))]
    body, ends = _body(rng, what, counts)
    what["empty"] = body in (b"", "\ufeff".encode())
    return _cut(rng, what, (*_framed(rng, what, body), ends), counts)


def _event(what, text, mark, ids=None, finish=None):
    """One event of the dialect, as JSON text."""
    if what["chat"]:
        kinds = {
            "text": ("content", text),
            "reasoning": ("reasoning_content", text),
            "tools": ("tool_calls", [{"index": 0}]),
        }
        key, value = kinds.get(what["content"], ("content", [{"type": "text", "text": text}]))
        choice = {"delta": {key: value} if text else {}, "finish_reason": finish}
    else:
        choice = {"text": text, "finish_reason": finish}
    said = {"choices": [choice if ids is None else {**choice, "token_ids": ids}]}
    return json.dumps(said if mark is None else {**said, "usage": mark})


def _marks(usage, counts):
    """The usage that goes with each event, None for none."""
    sums = list(itertools.accumulate(counts))
    forms = {
        "running": sums,
        "floats": [float(n) for n in sums],
        "zeros": [0] * len(sums),
        "alone": [1] * len(sums),
        "late": [0, *sums[:-1]],
        "some": [n if number % 2 else None for number, n in enumerate(sums)],
        "falling": [n + 5 * (number == 0) for number, n in enumerate(sums)],
    }
    return [
        None if n is None else {"prompt_tokens": 9, "completion_tokens": n}
        for n in forms.get(usage, [None] * len(sums))
    ]


def _body(rng, what, counts):
    """The stream, and the position where each token's event ends."""
    eol, blank = what["eol"], what["eol"] if what["single"] else what["eol"] * 2
    parts, marks = [], _marks(what["usage"], counts)
    place = rng.randint(0, len(counts)) if what["error"] else None
    if what["chat"] and rng.random() < 0.7:
        parts.append(("data: " + json.dumps({"choices": [{"delta": {"role": "assistant", "content": ""}}]}), False))
    for number, count in enumerate(counts):
        if number == place:
            parts.append((_error(what), False))
        if rng.random() < 0.2 and not what["single"]:
            parts.append((rng.choice(NOISE), False))
        ids = list(range(count)) if what["usage"] == "ids" else None
        parts.append(("data: " + _event(what, "ab\u2028", marks[number], ids), True))
    if place == len(counts):
        parts.append((_error(what), False))
    parts += [(text, False) for text in _end(rng, what, sum(counts))]
    raw, ends = ("\ufeff" if rng.random() < 0.1 else "").encode(), []
    for text, is_token in parts:
        raw += (text.replace("\n", eol) + blank).encode()
        if is_token:
            ends.append(len(raw))
    if what["single"]:
        raw += eol.encode()
    elif what["finish"] != "neither" and rng.random() < 0.2:
        raw = raw.rstrip(b"\r\n")
    return raw, [min(end, len(raw)) for end in ends]


def _error(what):
    error = what["error"]
    return error if error in FIELD_ERRORS else f"data: {error}"


def _end(rng, what, total):
    """What comes after the tokens."""
    finish, usage = what["finish"], what["usage"]
    counted = {"prompt_tokens": 9, "completion_tokens": -7 if usage == "negative" else total}
    last = "data: " + json.dumps({"choices": rng.choice(([], None)), "usage": counted})
    yield from ["data: " + _event(what, "", None, finish="length")] if finish in ("both", "finish") else []
    yield from [last] if usage != "none" else []
    yield from ["data: [DONE]"] if finish in ("both", "done") else []


def _framed(rng, what, body):
    """The bytes of the wire, and where in them each byte of the body has arrived (None where compressed)."""
    kind = what["framing"]
    what["type"] = rng.choice(("text/event-stream", "application/json", "text/plain"))
    head = f"HTTP/1.1 {rng.choice((200, 200, 201))} X\r\nContent-Type: {what['type']}\r\n"
    if kind in ("gzip", "deflate"):
        squeeze = zlib.compressobj(wbits=31 if kind == "gzip" else rng.choice((15, -15)))
        packed = b""
        for piece in _pieces(rng, body):
            packed += squeeze.compress(piece) + squeeze.flush(zlib.Z_SYNC_FLUSH)
        packed += squeeze.flush()
        head += f"Content-Encoding: {kind}\r\nContent-Length: {len(packed)}\r\n\r\n"
        return head.encode() + packed, None
    if kind in ("length", "close"):
        raw = (head + (f"Content-Length: {len(body)}\r\n" if kind == "length" else "") + "\r\n").encode()
        return raw + body, range(len(raw) + 1, len(raw) + len(body) + 1)
    raw, places = (head + "Transfer-Encoding: chunked\r\n\r\n").encode(), []
    for piece in _pieces(rng, body):
        raw += b"%x\r\n" % len(piece)
        places += range(len(raw) + 1, len(raw) + len(piece) + 1)
        raw += piece + b"\r\n"
    return raw + b"0\r\n\r\n", places


def _pieces(rng, data):
    """Bytes cut at some random places."""
    cuts = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(rng.randint(0, 12)))})
    return [data[a:b] for a, b in itertools.pairwise(cuts)]


def _cut(rng, what, sent, counts):
    raw, places, ends = sent
    failure = ""
    if what["framing"] == "cut":
        raw, failure = raw[: rng.randrange(len(raw))], "truncated"
    pieces = _pieces(rng, raw)
    error, usage = _wanted(what, counts), what["usage"]
    stops = list(itertools.accumulate(map(len, pieces)))
    stamps = None
    if places is not None and not failure:
        stamps = [next(number for number, stop in enumerate(stops) if stop >= places[end - 1]) for end in ends]
    total = len(counts) if usage in NOTHING else sum(counts)
    return Case(pieces, failure, error, total, len(counts), counts if usage in EXACT else None, stamps, what)


def _wanted(what, counts):
    if what["error"]:
        return "stream_error"
    if what["empty"] and what["type"] != "text/event-stream":
        return "not_json"
    if what["finish"] == "neither":
        return "truncated"
    return "" if counts else "no_tokens"


def wrong(case: Case) -> str:
    """What is wrong with how a case is read; empty where nothing is."""
    answer = answer_decoding.decode(case.pieces, list(range(len(case.pieces))), case.failure)
    found = (answer.error, answer.output_tokens, len(answer.at_ns))
    if sum(answer.tokens) != answer.output_tokens or min(answer.tokens, default=1) < 1:
        return f"tokens {answer.tokens} of {answer.output_tokens}"
    if list(answer.at_ns) != sorted(answer.at_ns) or len(answer.at_ns) != len(answer.tokens):
        return f"stamps {answer.at_ns}"
    if case.failure:  # cut anywhere: a success only with all that makes one
        whole = answer.error == "" and b"[DONE]" in b"".join(case.pieces).replace(b"\r\n", b"") and not case.error
        return "" if answer.error or whole or _done_is_split(case) else f"{found} of a cut answer"
    if found != (case.error, case.total, case.events):
        return f"{found}, not {(case.error, case.total, case.events)}: {answer.message}"
    if case.tokens is not None and list(answer.tokens) != case.tokens:
        return f"tokens {answer.tokens}, not {case.tokens}"
    return "" if case.stamps is None or list(answer.at_ns) == case.stamps else f"{answer.at_ns}, not {case.stamps}"


def _done_is_split(case: Case) -> bool:
    """Whether [DONE] came, but with a chunk's end inside it, where it cannot be found in the raw bytes."""
    return case.what["finish"] in ("both", "done") and not case.error and case.what["framing"] == "cut"


def main(count: int, seed: int) -> None:
    """Read `count` random answers; end with an error at the first that is read wrong."""
    rng, kinds = random.Random(seed), {}
    for number in range(count):
        case = dialect(rng)
        fault = wrong(case)
        if fault:
            sys.exit(f"answer {number}: {fault}\n{case.what}\n{case.pieces}")
        kinds[case.error] = kinds.get(case.error, 0) + 1
    sys.stdout.write(f"{count} random answers are read right: {kinds}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
