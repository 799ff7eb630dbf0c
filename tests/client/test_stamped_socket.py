"""Sockets that say how late they were read, under a loop that is kept busy."""

import asyncio
import contextlib
import socket
import time

import pytest

from harness.client.poller import PROMPT_NS, UNKNOWN, Poller
from harness.client.stamped_socket import StampedSocket
from harness.clock import StampClock

BLOCK_S = 0.02


def block():
    """Keep the loop from everything else, on purpose."""
    time.sleep(BLOCK_S)


class Talk:
    """A stamped socket, its peer, and what it has called back."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            self.peer, _ = listener.accept()
        ours.setblocking(False)
        self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.poller = Poller(asyncio.get_running_loop(), StampClock())
        self.reads = []
        self.ends = []
        self.socket = StampedSocket(ours, self.poller, self._on_data, self.ends.append)

    def _on_data(self, *read):
        self.reads.append(read)

    async def until(self, holds):
        """Let the loop turn until something holds."""
        for _ in range(2000):
            if holds():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("did not happen")

    def close(self):
        """Close both ends."""
        self.socket.close()
        self.peer.close()
        self.poller.close()


def talking(scenario):
    """Run an async scenario over a fresh talk."""

    async def main():
        talk = Talk()
        try:
            return await scenario(talk)
        finally:
            talk.close()

    return asyncio.run(main())


def test_late_read_knows_when_its_bytes_came_and_that_it_was_late():
    """While the loop is blocked two messages come: the read has the second's time, its lateness, and the spread."""

    async def scenario(talk):
        await asyncio.sleep(0.001)
        talk.peer.send(b"one")
        first_ns = time.monotonic_ns()
        block()
        talk.peer.send(b"two")
        second_ns = time.monotonic_ns()
        block()
        await talk.until(lambda: talk.reads)
        return first_ns, second_ns, talk.reads

    first_ns, second_ns, [(data, arrived_ns, late_ns, spread_ns)] = talking(scenario)

    assert data == b"onetwo"
    assert arrived_ns <= second_ns
    assert late_ns >= BLOCK_S * 1e9 > PROMPT_NS
    assert arrived_ns - spread_ns <= first_ns


def test_without_kernel_stamps_a_read_has_its_own_time(monkeypatch):
    """Where the kernel gives no stamps the read's own time stands, and its lateness is unknown."""
    monkeypatch.setattr("harness.client.kernel_stamps.AVAILABLE", False)

    async def scenario(talk):
        before_ns = time.monotonic_ns()
        talk.socket.send(b"request")
        talk.peer.send(b"answer")
        await talk.until(lambda: talk.reads)
        return before_ns, talk.reads

    before_ns, [(data, arrived_ns, late_ns, spread_ns)] = talking(scenario)

    assert (data, late_ns, spread_ns) == (b"answer", UNKNOWN, 0)
    assert arrived_ns >= before_ns


def test_large_request_is_sent_to_its_end():
    """What the socket does not take at once goes out as the peer reads, in order."""
    request = bytes(range(256)) * 40_000

    async def scenario(talk):
        talk.socket.send(request)
        talk.socket.send(b"the end")
        talk.peer.setblocking(False)
        got = bytearray()

        def more():
            with contextlib.suppress(BlockingIOError):
                got.extend(talk.peer.recv(1 << 20))
            return len(got) >= len(request) + 7

        await talk.until(more)
        return bytes(got)

    assert talking(scenario) == request + b"the end"


@pytest.mark.parametrize("reset", [False, True])
def test_end_is_told_once(reset):
    """A peer that closes is told with None, one that resets with the system's error; and once."""

    async def scenario(talk):
        if reset:
            talk.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        talk.peer.close()
        await talk.until(lambda: talk.ends)
        await asyncio.sleep(0.005)
        return talk.ends

    [fault] = talking(scenario)

    assert isinstance(fault, ConnectionResetError) if reset else fault is None


def test_send_to_a_peer_that_is_gone_ends_the_socket():
    """A send that fails is told as the end, after the call."""

    async def scenario(talk):
        talk.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        talk.peer.close()
        talk.socket.send(b"too late")
        told_within_the_call = list(talk.ends)
        await talk.until(lambda: talk.ends)
        return told_within_the_call, talk.ends

    within, ends = talking(scenario)

    assert within == []
    assert len(ends) == 1
    assert isinstance(ends[0], OSError)
