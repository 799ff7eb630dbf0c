"""Bounds of what is read from a server.

Every bound of foreign bytes stands here: of answers, of control calls, and of what is decoded. Each is
far above what real servers send. A breach is a named failure of one request, or one line for the user,
never a machine without memory.
"""

from typing import Any

import msgspec

HEAD_BYTES = 65_536  # status line and headers, or trailers
INTERIM_HEADS = 16  # 1xx answers before the answer
CHUNK_LINE_BYTES = 16_384  # a chunk's size with its extensions
LENGTH_DIGITS = 20  # of a content-length; 2**64 has as many

# An answer in full, and what a compressed one may become: 190,000 tokens at 350 bytes an event. What decodes it
# holds about four copies for a moment.
MAX_ANSWER_BYTES = 64 << 20
MAX_EVENTS = 500_000  # of one answer: 130 bytes each would fill it, and real events have more
MAX_CHUNKS = 600_000  # of one answer's HTTP framing: three for each event of the longest answer
MAX_PARTS = 1_000_000  # braces, brackets and commas of one event's JSON: each may become an object of a hundred bytes
LARGE_BYTES = 1 << 20  # what is smaller than this cannot become much, whatever it holds
MAX_TOKENS = 10_000_000  # of one answer or prompt, as in scenario files; a server that counts more miscounts
MESSAGE_CHARS = 300  # of a server's own words

TOKEN_BYTES = 16_384  # of one token's event: it takes 0.2 to 0.5 KiB, and some KiB with log probabilities
SPARE_TOKENS = 1024  # beside those asked for: prompts told back, and servers that answer longer
USUAL_BYTES = 512  # what a token explains of what is held for answers in flight
READ_BYTES = 130  # what one socket read takes beside its bytes: objects and their places in lists
MAX_READS = 65_536  # of one answer before its bytes are counted in any case
ERROR_BYTES = 1 << 20  # the body of an answer that is no success
KEPT_BYTES = 65_536  # what is kept of an answer that broke a bound: its head and some words
HELD_BYTES = 192 << 20  # answers in flight beyond what their tokens explain, over all workers
FAIR_BYTES = 1 << 20  # an answer that holds less does not pay for what others hold

REPLY_S = 15.0  # of a control call in all; its bytes (16 engines' metrics: 2 MiB) are those of an answer of no tokens


def answer_bytes(tokens: int) -> int:
    """The most bytes that an answer of so many asked tokens may take."""
    return min(MAX_ANSWER_BYTES, (SPARE_TOKENS + tokens) * TOKEN_BYTES)


def usual_reads(tokens: int) -> int:
    """Socket reads of an answer below which its bytes need not be counted to know that they are within bounds."""
    return min(MAX_READS, SPARE_TOKENS + tokens)


def explained_bytes(tokens: int) -> int:
    """What an answer of so many asked tokens takes at most where nothing is odd."""
    return (SPARE_TOKENS + tokens) * USUAL_BYTES


def json_of(raw: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: where it is none, is too deep, or holds text that is no Unicode.
    """
    try:
        return msgspec.json.decode(raw)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    except (msgspec.DecodeError, ValueError) as fault:
        raise ValueError(str(fault)) from None
