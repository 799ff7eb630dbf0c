"""The loop that reads all sockets of a client: gathering, and which reads are taken for one event."""

import asyncio
import socket
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.client import poller
from harness.client.poller import LARGE_READ, PROMPT_NS, Poller, ReadableSocket
from harness.client.stamped_socket import StampedSocket
from harness.clock import StampClock
from harness.units import NS_PER_S

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="gathers on Linux alone")


def nothing(*_):
    """Hear it, and do nothing."""


def a_source():
    """A source whose reads may be kept."""
    source = ReadableSocket(nothing, nothing, nothing, nothing)
    source.keep([], [], [])
    return source


def is_kept(source, data):
    """What the poller asks of a read."""
    return (4 <= len(data) <= source.plain and data[-4] != 13) or source.is_one_event(data)


def event(size):
    """One event of `size` bytes in a chunk of its own."""
    body = b"data: " + b"x" * size + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(body), body)


@given(st.lists(st.tuples(st.integers(100, 180), st.integers(1, 3)), min_size=1, max_size=30))
def test_only_reads_of_one_event_are_kept_without_a_call(reads):
    """Events whose sizes differ less than twofold are told from two that came together, by size or by a count."""
    source = a_source()

    kept = [is_kept(source, event(size) * count) for size, count in reads]

    assert kept == [count == 1 for _, count in reads]


@pytest.mark.parametrize("data", [b"", b"abc", b"0\r\n\r\n", event(20) + b"0\r\n\r\n", event(LARGE_READ)])
def test_what_is_no_plain_event_is_looked_at(data):
    """Ends, scraps and floods go to the connection, whatever came before."""
    source = a_source()
    for size in (150, 170, 160):
        assert is_kept(source, event(size))

    assert not is_kept(source, data)


def test_nothing_is_kept_between_answers():
    """When an answer is over every read goes to the connection again."""
    source = a_source()
    assert is_kept(source, event(100))

    source.keep_no_more()

    assert not is_kept(source, event(100))


async def turns_until(holds):
    """Let the loop turn until something holds."""
    for _ in range(1_000_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("did not happen")


class Talk:
    """A socket that a poller reads into lists, and its peer."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            self.peer, _ = listener.accept()
        ours.setblocking(False)
        self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.poller = Poller(asyncio.get_running_loop(), StampClock())
        self.pieces, self.stamps, self.lates, self.sent, self.times = [], [], [], [], []
        self.socket = StampedSocket(ours, self.poller, self._on_data, nothing)

    def _on_data(self, data, arrived_ns, late_ns, _spread_ns):
        self.pieces.append(data)
        self.stamps.append(arrived_ns)
        self.lates.append(late_ns)

    async def say(self, word):
        """Send one message, and wait until it is read."""
        self.sent.append(word)
        before_ns = time.monotonic_ns()
        self.peer.send(word)
        self.times.append((before_ns, time.monotonic_ns()))
        await turns_until(lambda: len(self.pieces) == len(self.sent))

    def close(self):
        """Close both ends and the poller."""
        for each in (self.socket, self.peer, self.poller):
            each.close()


@on_linux
def test_dense_arrivals_are_gathered_with_their_own_stamps_until_they_grow_sparse(monkeypatch):
    """Events that come at every turn of the loop make it gather; each read has the kernel's time; then it stops."""
    for name in ("_DENSE_NS", "_SPARSE_NS"):
        monkeypatch.setattr(poller, name, NS_PER_S)  # any machine's turns are dense, however busy it is

    async def scenario():
        talk = Talk()
        talk.socket.keep(talk.pieces, talk.stamps, talk.lates)
        while not talk.poller.gathers:
            await talk.say(event(100))
        for _ in range(3 * poller._LOOKS):
            await talk.say(event(110))
        await turns_until(lambda: not talk.poller._beats)  # a beat found nothing: the next arrival is awaited again
        await talk.say(event(110))
        assert talk.poller.gathers
        monkeypatch.setattr(poller, "_SPARSE_NS", 0)
        monkeypatch.setattr(poller, "_DENSE_NS", 0)
        while talk.poller.gathers:
            await talk.say(event(120))
        await talk.say(event(120))
        talk.close()
        return talk

    talk = asyncio.run(scenario())

    bound_ns = talk.poller.clock.bound_ns
    assert talk.pieces == talk.sent
    for arrived_ns, (before_ns, after_ns) in zip(talk.stamps, talk.times, strict=True):
        assert before_ns - bound_ns <= arrived_ns <= after_ns + bound_ns
    assert min(talk.lates) >= 0


@on_linux
def test_begins_and_ends_of_answers_are_not_gathered():
    """Where most reads are handed on, as of answers of a token or two, each is read as it comes."""

    async def scenario():
        talk = Talk()
        for _ in range(200):
            await talk.say(event(100))
            assert not talk.poller.gathers
        talk.close()

    asyncio.run(scenario())


@on_linux
def test_one_late_read_of_a_look_makes_the_others_say_how_much_earlier_they_may_have_begun():
    """After a stop of the reader one socket's last byte has only just come: it, too, held bytes through the stop."""

    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours, peers = zip(
                *((socket.create_connection(listener.getsockname()), listener.accept()[0]) for _ in "ab"), strict=True
            )
        poller = Poller(asyncio.get_running_loop(), StampClock())
        reads = {0: [], 1: []}
        stamped = []
        for number, sock in enumerate(ours):
            sock.setblocking(False)
            stamped.append(StampedSocket(sock, poller, lambda *read, to=reads[number]: to.append(read), nothing))
        await asyncio.sleep(0)
        begin_ns = time.monotonic_ns()
        peers[0].send(b"late")
        peers[1].send(b"early")
        while time.monotonic_ns() < begin_ns + 5 * PROMPT_NS:  # this process does not read
            pass
        peers[1].send(b"last")
        await turns_until(lambda: reads[0] and b"".join(read[0] for read in reads[1]) == b"earlylast")
        for each in (*stamped, *peers, poller):
            each.close()
        return begin_ns, reads

    begin_ns, reads = asyncio.run(scenario())

    [(_, _, late_ns, _)] = reads[0]
    [(data, arrived_ns, _, spread_ns)] = reads[1]
    assert data == b"earlylast"
    assert late_ns >= 4 * PROMPT_NS
    assert arrived_ns - spread_ns <= begin_ns + PROMPT_NS
