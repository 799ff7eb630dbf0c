"""Stamps of the kernel, on real sockets of the loopback."""

import select
import socket
import sys

import pytest

from harness import clock
from harness.client import kernel_stamps
from harness.clock import StampClock, monotonic_ns

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what arrives")


@pytest.fixture
def pair():
    """Two connected sockets of the loopback, both stamped and not blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kernel_stamps.enable_accepted(listener)
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with kernel_stamps.switch_on(), ours, theirs:
        for sock in (ours, theirs):
            sock.setblocking(False)
            assert kernel_stamps.enable(sock, sends=True)
        _until_stamped(ours, theirs)
        yield ours, theirs


def _until_stamped(ours, theirs):
    """Linux switches stamps on a moment after they were first asked for."""
    for _ in range(10_000):
        theirs.send(b"?")
        select.select([ours], [], [], 5)
        if kernel_stamps.stamp_of(ours.recvmsg(100, kernel_stamps.CONTROL_BYTES)[1]) is not None:
            while kernel_stamps.late_stamp(theirs) is not None:
                pass
            return
    raise AssertionError("the kernel gives no stamps")


def test_a_read_has_the_time_of_its_arrival_and_not_of_the_read(pair):
    """Bytes that lay in the socket carry the time at which they were sent, however late they are read."""
    ours, theirs = pair
    relation = StampClock()
    before_ns = monotonic_ns()
    theirs.send(b"first")
    after_ns = monotonic_ns()
    select.select([ours], [], [], 5)
    data, control, _, _ = ours.recvmsg(100, kernel_stamps.CONTROL_BYTES)
    arrived_ns = kernel_stamps.stamp_of(control) - relation.offset_ns

    assert data == b"first"
    assert before_ns - relation.bound_ns <= arrived_ns <= after_ns + relation.bound_ns


def test_a_send_has_the_time_at_which_it_left(pair):
    """The kernel's stamp of a send lies within the call and leaves no bound; the error queue is empty then."""
    ours, _ = pair
    relation = StampClock()
    before_ns = monotonic_ns()
    taken, left_ns, bound_ns = kernel_stamps.stamped_send(ours, b"request", relation)

    assert (taken, bound_ns) == (7, 0)
    assert before_ns <= left_ns <= monotonic_ns()
    assert kernel_stamps.late_stamp(ours) is None


def test_a_send_that_is_taken_in_part_has_the_time_before_it():
    """Where the peer's window holds bytes back, the request was handed over all the same, and the call bounds it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        ours.setblocking(False)
        kernel_stamps.enable(ours, sends=True)
        before_ns = monotonic_ns()
        taken, left_ns, bound_ns = kernel_stamps.stamped_send(ours, bytes(64 << 20), StampClock())

        assert taken < 64 << 20
        assert before_ns <= left_ns <= left_ns + bound_ns <= monotonic_ns()
        assert bound_ns > 0


def test_control_data_without_a_stamp_says_nothing():
    """No control data, or one of another kind, is no stamp."""
    assert kernel_stamps.stamp_of([]) is None
    assert kernel_stamps.stamp_of([(socket.SOL_SOCKET, 1, bytes(48))]) is None


def test_a_clock_that_is_set_is_noticed(monkeypatch):
    """A step of the wall clock between two looks is kept with its size; the small drift of every clock is none."""
    relation = StampClock()
    relation.refresh()

    assert relation.stepped_ns == 0

    real = clock.time.time_ns
    monkeypatch.setattr(clock.time, "time_ns", lambda: real() + 5_000_000)
    relation.refresh()

    assert abs(relation.stepped_ns - 5_000_000) <= 50_000 + 2 * relation.bound_ns
