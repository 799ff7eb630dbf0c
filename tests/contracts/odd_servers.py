"""Servers with one odd habit each: what they send for eight tokens, and how it must be read."""

import json
import zlib
from dataclasses import dataclass

from harness.results.request_table import ASSUMED, FROM_EVENTS, FROM_USAGE

N = 8
STREAM = "text/event-stream; charset=utf-8"


def chunk(text=None, finish=None, usage=None, **more):
    """One chat event; `more` goes into its delta, `usage` is the number of tokens so far."""
    delta = {**({} if text is None else {"content": text}), **more}
    said = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return said if usage is None else {**said, "usage": counts(usage)}


def counts(tokens, prompt=20):
    """A usage object."""
    return {"prompt_tokens": prompt, "completion_tokens": tokens}


def block(said, end="\n\n", lead="data: "):
    """One raw event."""
    return (lead + (said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)) + end).encode()


ROLE = block(chunk("", role="assistant"))
TOKENS = tuple(block(chunk("ab ", usage=n + 1)) for n in range(N))
PLAIN = (block(chunk("ab ")),) * N
FINISH = block(chunk(finish="length"))
TOTAL = block({"choices": [], "usage": counts(N)})
DONE = block("[DONE]")
END = (FINISH, TOTAL, DONE)


def total(usage):
    """The last event, with a usage of any form."""
    return block({"choices": [], "usage": usage})


@dataclass(frozen=True)
class Habit:
    """A habit: the parts of the body as they are sent, the answer's headers, and what must be read."""

    name: str
    parts: tuple[bytes, ...]
    error: str = ""
    tokens: int = N
    events: int = N
    counted_by: str = FROM_USAGE
    words: str = ""
    headers: tuple[str, ...] = (f"Content-Type: {STREAM}",)
    status: int = 200
    chunked: bool = True
    first: int = 1  # number of the part that brought the first token

    def pieces(self):
        """The bytes as they are read: the head, then part by part."""
        framing = ("Transfer-Encoding: chunked",) if self.chunked else ()
        head = "\r\n".join([f"HTTP/1.1 {self.status} X", *self.headers, *framing]) + "\r\n\r\n"
        if not self.chunked:
            return [head.encode(), *self.parts]
        return [head.encode(), *(b"%x\r\n%s\r\n" % (len(part), part) for part in self.parts), b"0\r\n\r\n"]


def squeezed(squeeze, *, flush):
    """An answer's parts through a compressor that passes each part on at once, or keeps all to the end."""
    parts = (ROLE, *TOKENS, *END)
    if not flush:
        return (squeeze.compress(b"".join(parts)) + squeeze.flush(),)
    sent = [squeeze.compress(part) + squeeze.flush(zlib.Z_SYNC_FLUSH) for part in parts]
    return (*sent, squeeze.flush())


def habit(name, *parts, **more):
    """A habit whose answer is these parts."""
    return Habit(name, parts, **more)


def answer(name, *middle, **more):
    """A habit that shows between the role and the usual end."""
    return Habit(name, (ROLE, *middle, *END), **more)


def failing(name, *parts, **more):
    """A habit whose four tokens are followed by a failure."""
    more = {"error": "stream_error", "tokens": 4, "events": 4, "words": "engine died", **more}
    return Habit(name, (ROLE, *TOKENS[:4], *parts), **more)


DIED = {"message": "engine died", "code": 500}
WHOLE = {"tokens": N, "events": 1, "first": 0, "chunked": False, "headers": ("Content-Type: application/json",)}
BODY = {"choices": [{"message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}], "usage": counts(N)}

HABITS = (
    answer("as vLLM does", *TOKENS),
    answer("a stream that says it is JSON", *TOKENS, headers=("Content-Type: application/json",)),
    answer("a stream of no type", *TOKENS, headers=()),
    answer("status 201", *TOKENS, status=201),
    answer("bytes until the connection closes", *TOKENS, chunked=False),
    habit("a byte order mark", b"\xef\xbb\xbf" + ROLE, *TOKENS, *END),
    habit("blank lines first", b"\n\n", *TOKENS, *END),
    habit("a comment first", b": OPENROUTER PROCESSING\n\n", *TOKENS, *END, headers=()),
    habit("an event name first", b"event: message\n" + TOKENS[0], *TOKENS[1:], *END, headers=(), first=0),
    answer("comments and other fields between", *(b": ping\n\nretry: 3\n\nid: 7\nevent: x\n" + t for t in TOKENS)),
    answer("heartbeats that are no JSON", *(block("ping") + block("[]") + block("null") + t for t in TOKENS)),
    answer("CRLF", *(t.replace(b"\n", b"\r\n") for t in TOKENS)),
    answer("CR", *(t.replace(b"\n", b"\r") for t in TOKENS)),
    answer("LF and CRLF mixed", *(t.replace(b"\n\n", b"\n\r\n") for t in TOKENS)),
    answer("single line ends", *(t[:-1] for t in TOKENS)),
    answer("no blank after the colon", *(t.replace(b"data: ", b"data:") for t in TOKENS)),
    answer("data over two lines", *(t.replace(b', "choices', b',\ndata: "choices') for t in TOKENS)),
    answer("U+2028 and U+0085 in text", *(block(chunk("a\u2028b\u0085", usage=n + 1)) for n in range(N))),
    # how an answer ends
    habit("no [DONE]", ROLE, *TOKENS, FINISH, TOTAL),
    habit("no [DONE], no total", ROLE, *PLAIN, FINISH, counted_by=FROM_EVENTS),
    habit("no [DONE], until the connection closes", ROLE, *TOKENS, FINISH, TOTAL, chunked=False),
    habit("[DONE] with one line end", ROLE, *TOKENS, FINISH, TOTAL, b"data: [DONE]\n"),
    habit("[DONE] without line end", ROLE, *TOKENS, FINISH, TOTAL, b"data: [DONE]"),
    habit("[DONE] after two blanks", ROLE, *TOKENS, TOTAL, b"data:  [DONE]\n\n"),
    habit("the last event without its blank line", ROLE, *TOKENS, TOTAL, FINISH[:-2]),
    habit("cut clean", ROLE, *TOKENS[:4], error="truncated", tokens=4, events=4),
    habit("cut inside an event", ROLE, *TOKENS[:4], TOKENS[4][:30], error="truncated", tokens=4, events=4),
    habit("nothing at all", error="truncated", tokens=0, events=0, counted_by=FROM_EVENTS),
    habit(
        "no token", ROLE, FINISH, total(counts(0)), DONE, error="no_tokens", tokens=0, events=0, counted_by=FROM_EVENTS
    ),
    # how tokens are counted
    answer("usage at the end only", *PLAIN, counted_by=ASSUMED),
    answer(
        "usage null before the end", *(block({**chunk("ab "), "usage": None}) for _ in range(N)), counted_by=ASSUMED
    ),
    answer("usage 0 until the end", *(block(chunk("ab ", usage=0)) for _ in range(N)), counted_by=ASSUMED),
    habit(
        "usage 0 until the finish",
        block(chunk("", role="assistant", usage=0)),
        *(block({**chunk("ab "), "usage": counts(0, 0)}) for _ in range(N)),
        block(chunk("", finish="stop", usage=N)),
        DONE,
        counted_by=ASSUMED,
    ),
    answer("usage of each event alone", *(block(chunk("ab ", usage=1)) for _ in range(N)), counted_by=ASSUMED),
    answer("usage one event late", *(block(chunk("ab ", usage=n)) for n in range(N)), counted_by=ASSUMED),
    answer("usage that falls", *(block(chunk("ab ", usage=n)) for n in (1, 2, 3, 2, 4, 5, 6, 8)), counted_by=ASSUMED),
    answer("usage now and then", *(TOKENS[n] if n % 3 == 0 else PLAIN[0] for n in range(N)), counted_by=ASSUMED),
    answer("usage from the role on", *TOKENS, first=1),
    habit("a role that is counted", block(chunk("", role="assistant", usage=1)), *TOKENS, *END),
    answer("usage as 8.0", *PLAIN[:-1], block(chunk("ab ", usage=8.0)), counted_by=ASSUMED),
    answer("running usage as 8.0", *(block(chunk("ab ", usage=float(n + 1))) for n in range(N))),
    answer('usage as "8"', *PLAIN, counted_by=ASSUMED),
    answer("three tokens an event", *(block(chunk("ab cd ", usage=n)) for n in (3, 6, 8)), events=3),
    answer("all in one event", block(chunk("ab " * N)), events=1, counted_by=ASSUMED),
    answer("an ending token that no event carries", *TOKENS[:7], tokens=8, events=7),
    habit("total of 7.5", ROLE, *PLAIN, FINISH, total({"completion_tokens": 7.5}), DONE, counted_by=FROM_EVENTS),
    habit("total of -7", ROLE, *PLAIN, FINISH, total(counts(-7)), DONE, counted_by=FROM_EVENTS),
    habit("total of true", ROLE, *PLAIN, FINISH, total({"completion_tokens": True}), DONE, counted_by=FROM_EVENTS),
    habit("total of 10^30", ROLE, *PLAIN, FINISH, total(counts(10**30)), DONE, counted_by=FROM_EVENTS),
    habit(
        "total of 5000 digits",
        ROLE,
        *PLAIN,
        FINISH,
        b'data: {"usage":{"completion_tokens":' + b"9" * 5000 + b"}}\n\n",
        DONE,
        counted_by=FROM_EVENTS,
    ),
    habit("total of 0", ROLE, *PLAIN, FINISH, total(counts(0)), DONE, counted_by=FROM_EVENTS),
    # foreign schemas
    habit("choices null", ROLE, *TOKENS, FINISH, block({"choices": None, "usage": counts(N)}), DONE),
    answer(
        "content as a list of parts",
        *(block(chunk([{"type": "text", "text": "ab"}])) for _ in range(N)),
        counted_by=ASSUMED,
    ),
    answer(
        "objects that nobody knows",
        *(
            block(
                {
                    **chunk("ab ", usage=n + 1),
                    "object": {"a": 1},
                    "usage": {**counts(n + 1), "prompt_tokens_details": 3},
                }
            )
            for n in range(N)
        ),
    ),
    answer(
        "null everywhere",
        block({"choices": [{"delta": None}], "usage": None}),
        block({"choices": [None]}),
        *TOKENS,
        first=3,
    ),
    answer(
        "reasoning",
        *(block(chunk(usage=n + 1, **{"reasoning_content" if n < 4 else "content": "ab"})) for n in range(N)),
    ),
    answer("calls of tools", *(block(chunk(usage=n + 1, tool_calls=[{"index": 0}])) for n in range(N))),
    answer("half surrogates", *(block(chunk(usage=n + 1)).replace(b"{}", b'{"content": "\\ud83d"}') for n in range(N))),
    answer("bytes that are no UTF-8", *(t.replace(b"ab", b"\xff\xfe") for t in TOKENS)),
    answer("a huge number beside", *(t.replace(b'"index": 0', b'"index": ' + b"9" * 9000) for t in TOKENS)),
    failing("JSON that is none", b"data: {not json\n\n", DONE, error="bad_event", words="not json"),
    failing("deep JSON", b'data: {"x":' + b"[" * 100_000 + b"\n\n", DONE, error="bad_event", words="recursion"),
    # failures inside a stream
    failing("an error object", block({"error": DIED}), DONE),
    failing("an error as text", block({"error": "engine died"}), DONE),
    failing("an error field", block(json.dumps(DIED), lead="error: "), DONE),
    failing("an error field of text", b"error: engine died\n\n", DONE),
    failing("an error event", block(DIED, lead="event: error\ndata: "), DONE),
    failing("an error event of text", b"event: error\ndata: engine died\n\n"),
    failing("an error line without field", json.dumps({"error": DIED}).encode() + b"\n\n", DONE),
    failing("object error", block({"object": "error", **DIED}), DONE),
    failing("type error", block({"type": "error", **DIED}), DONE),
    failing("code and message", block(DIED), DONE),
    failing("detail", block({"detail": "engine died"}), DONE),
    failing("an error in a choice", block({"choices": [{"error": DIED}]}), DONE),
    failing("finish_reason error", block(chunk(finish="error")), DONE, words="finish_reason error"),
    failing("finish_reason abort", block(chunk(finish="abort")), DONE, words="finish_reason abort"),
    failing("an abort as an object", block(chunk(finish={"type": "abort", "message": "engine died"})), DONE),
    failing("an error without [DONE]", block({"error": DIED})),
    failing("an error without blank line", block({"error": DIED})[:-2]),
    *(
        answer(
            f"error {json.dumps(none)} beside content",
            *(block({**chunk("ab ", usage=n + 1), "error": none}) for n in range(N)),
        )
        for none in (None, "", {}, [], 0, {"code": None, "message": ""})
    ),
    # whole answers
    habit("one JSON body", json.dumps(BODY).encode(), **WHOLE),
    habit(
        "one JSON body that says it is a stream",
        json.dumps(BODY).encode(),
        **{**WHOLE, "headers": (f"Content-Type: {STREAM}",)},
    ),
    habit("one JSON body with 8.0", json.dumps({**BODY, "usage": counts(8.0)}).encode(), **WHOLE),
    habit(
        "one JSON body without usage",
        json.dumps({"choices": BODY["choices"]}).encode(),
        **{**WHOLE, "error": "not_counted", "tokens": 1, "counted_by": FROM_EVENTS},
    ),
    *(
        habit(
            f"a good status with {name}",
            json.dumps(said).encode(),
            **{
                **WHOLE,
                "error": "error_body",
                "tokens": 0,
                "events": 0,
                "counted_by": FROM_EVENTS,
                "words": "engine died",
            },
        )
        for name, said in (
            ("an error", {"error": DIED}),
            ("object error", {"object": "error", **DIED}),
            ("detail", {"detail": "engine died"}),
        )
    ),
    # compressed
    habit(
        "gzip at once",
        *squeezed(zlib.compressobj(wbits=31), flush=True),
        headers=(f"Content-Type: {STREAM}", "Content-Encoding: gzip"),
    ),
    habit(
        "deflate with zlib's head", *squeezed(zlib.compressobj(), flush=True), headers=("Content-Encoding: deflate",)
    ),
    habit("deflate bare", *squeezed(zlib.compressobj(wbits=-15), flush=True), headers=("Content-Encoding: deflate",)),
    habit(
        "gzip in one lump",
        *squeezed(zlib.compressobj(wbits=31), flush=False),
        headers=("Content-Encoding: gzip",),
        first=0,
    ),
    habit("identity by name", ROLE, *TOKENS, *END, headers=("Content-Encoding: identity",)),
    habit(
        "brotli",
        b"\x1b\x00",
        headers=("Content-Encoding: br",),
        error="content_encoding",
        tokens=0,
        events=0,
        counted_by=ASSUMED,
        words="br",
    ),
    habit(
        "gzip that is none",
        ROLE,
        headers=("Content-Encoding: gzip",),
        error="content_encoding",
        tokens=0,
        events=0,
        counted_by=ASSUMED,
    ),
)
