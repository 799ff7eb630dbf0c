"""Servers with odd habits are read right: their tokens, times and failures."""

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.client import answer_decoding, event_stream
from tests.contracts.dialects import dialect, wrong
from tests.contracts.odd_servers import HABITS, ROLE, habit


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.name)
def test_an_odd_habit_is_read_right(habit):
    """Tokens, events, the way of counting and the failure are those that the habit deserves."""
    pieces = habit.pieces()
    answer = answer_decoding.decode(pieces, [1000 + number for number in range(len(pieces))])

    assert (answer.error, answer.output_tokens, len(answer.at_ns)) == (habit.error, habit.tokens, habit.events)
    assert answer.counted_by == habit.counted_by
    assert sum(answer.tokens) == answer.output_tokens
    assert habit.words in answer.message
    assert (answer.message == "") == (answer.error == "")
    if habit.events:
        assert answer.at_ns[0] == 1000 + habit.first + 1  # the head is a read of its own
    if not habit.error:
        assert answer.http_status == habit.status


@pytest.mark.parametrize("habit", HABITS[:60], ids=lambda habit: habit.name)
def test_how_the_bytes_are_cut_changes_nothing_but_stamps(habit):
    """The same answer in one read, or byte by byte, says the same."""
    raw = b"".join(habit.pieces())
    one = answer_decoding.decode([raw], [5])
    many = answer_decoding.decode([raw[at : at + 7] for at in range(0, len(raw), 7)], range(0, len(raw), 7))

    assert (one.error, list(one.tokens), one.text) == (many.error, list(many.tokens), many.text)


@settings(max_examples=300)
@given(st.integers(0, 2**63))
def test_random_dialects_are_read_right(seed):
    """Framing, usage, finish, error and line ends in any mixture: tokens add up, stamps are those of their reads."""
    assert wrong(dialect(random.Random(seed))) == ""


SCRAPS = (
    b"data: ",
    b"{",
    b"}",
    b"[",
    b'"choices": ',
    b'"usage"',
    b"\n\n",
    b"\r\n",
    b"\r",
    b":",
    b"[DONE]",
    b"null",
    b"-7",
    b"\xff",
)
HEADS = ("", "Content-Encoding: gzip", "Content-Encoding: deflate", "Transfer-Encoding: chunked", "Content-Length: 40")


@settings(max_examples=300)
@given(
    st.lists(st.one_of(st.binary(max_size=20), st.sampled_from(SCRAPS)), max_size=30),
    st.sampled_from(HEADS),
    st.sampled_from((200, 404)),
    st.booleans(),
)
def test_random_bytes_are_never_more_than_a_failure(scraps, header, status, with_head):
    """Whatever comes, with or without a head, is an answer with a name for what is wrong, and its counts add up."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: text/event-stream\r\n{header}\r\n".encode() if with_head else b""
    answer = answer_decoding.decode([head, *scraps] if header else [head + b"\r\n", *scraps], range(len(scraps) + 1))

    assert sum(answer.tokens) == answer.output_tokens
    assert len(answer.tokens) == len(answer.at_ns)
    assert answer.error or answer.output_tokens > 0


def test_what_unpacks_to_too_much_is_refused(monkeypatch):
    """A small answer that would become a large one stops at the bound, named."""
    monkeypatch.setattr(event_stream, "MAX_ANSWER_BYTES", 10_000)
    squeeze = zlib.compressobj()
    bomb = habit("", squeeze.compress(ROLE + bytes(10_000)) + squeeze.flush(), headers=("Content-Encoding: deflate",))
    answer = answer_decoding.decode(bomb.pieces(), range(3))

    assert (answer.error, answer.output_tokens) == ("too_long", 0)


@pytest.mark.parametrize(
    ("bound", "raw"),
    [
        ("MAX_EVENTS", b"data: {}\n\n" * 50),
        ("MAX_EVENTS", b"data: {}\n" * 50),
    ],
)
def test_too_many_events_are_refused(monkeypatch, bound, raw):
    """An answer of more events, or an event of more lines, than any server sends has a name of its own."""
    monkeypatch.setattr(f"harness.safety.bounds.{bound}", 40)
    monkeypatch.setattr(f"harness.client.event_stream.{bound}", 40)

    assert answer_decoding.decode([b"HTTP/1.1 200 OK\r\n\r\n" + raw], [1]).error == "too_long"


def test_a_large_event_of_many_parts_is_refused(monkeypatch):
    """Braces and commas become objects; a MiB of them is not read into memory."""
    monkeypatch.setattr("harness.client.events.LARGE_BYTES", 50)
    monkeypatch.setattr("harness.client.events.MAX_PARTS", 40)
    raw = b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices": [' + b"{}," * 40 + b"{}]}\n\n"

    answer = answer_decoding.decode([raw], [1])
    assert (answer.error, answer.message) == ("bad_event", "an event of more than 40 parts")
