"""The kernel's own stamps of what a TCP socket received and sent, on the clock that everything else uses.

Linux stamps every segment as it arrives and as it leaves (SO_TIMESTAMPING, see timestamping.rst of the
kernel's documentation), whenever the process that waits for it gets its core. Its stamps are of the
realtime clock; `clock.StampClock` relates them to the monotonic one. Elsewhere nothing is
asked of the kernel, and the reader's own stamps are all there is.
"""

import socket
import struct
import sys
import time

from harness.clock import StampClock
from harness.units import NS_PER_S

AVAILABLE = sys.platform == "linux"
CONTROL_BYTES = 96  # one stamp (three timespecs and their header) is 64
_SO_TIMESTAMPING = 37
_TX_SOFTWARE, _RX_SOFTWARE, _SOFTWARE = 1 << 1, 1 << 3, 1 << 4
_OPT_ID, _OPT_TSONLY = 1 << 7, 1 << 11
_RECEIVED = _RX_SOFTWARE | _SOFTWARE
_STAMP_ALONE = _OPT_ID | _OPT_TSONLY  # without the bytes that were sent
_MSG_ERRQUEUE = 0x2000
timespec = struct.Struct("@qq").unpack_from
"""Seconds and nanoseconds of a stamp's control data."""
Control = list[tuple[int, int, bytes]]


def switch_on() -> socket.socket:
    """A socket that keeps the stamping of what arrives switched on while it is open.

    The first socket of a machine that asks for stamps has Linux switch them on a moment later (net_enable_timestamp
    in net/core/dev.c defers it): what arrives in that moment has none. So it is asked for before load begins.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    _ask(sock, _RECEIVED)
    return sock


def enable(sock: socket.socket, *, sends: bool) -> bool:
    """Ask the kernel for stamps of what a connected socket receives, and with `sends` of all that leaves.

    Whether it agreed.
    """
    return _ask(sock, _RECEIVED | _STAMP_ALONE | (_TX_SOFTWARE if sends else 0))


def enable_accepted(listener: socket.socket) -> bool:
    """Ask for stamps of the first bytes of what a listener accepts: those may be there before `enable` is called."""
    return _ask(listener, _RECEIVED)


def _ask(sock: socket.socket, flags: int) -> bool:
    if not AVAILABLE:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, flags)
    except OSError:
        return False
    return True


def stamp_of(control: Control) -> int | None:
    """The stamp (realtime ns) in a message's control data; None where there is none."""
    if not control or control[0][1] != _SO_TIMESTAMPING:
        return None
    seconds, nanoseconds = timespec(control[0][2])
    return seconds * NS_PER_S + nanoseconds or None


def stamped_send(sock: socket.socket, data: bytes, clock: StampClock) -> tuple[int, int, int]:
    """Send on a non-blocking socket whose sends are stamped: bytes taken, when they left, and the bound of that (ns).

    The kernel's stamp counts where it falls within the call. Otherwise (no stamp, or bytes that the peer's
    window held back, which were handed over all the same) the time before the call does, and its length is the bound.

    Raises:
        OSError: as socket.send; BlockingIOError where the socket takes nothing.
    """
    before_ns = time.monotonic_ns()
    taken = sock.send(data)
    after_ns = time.monotonic_ns()
    stamp_ns = late_stamp(sock) if taken == len(data) else None
    if stamp_ns is not None and before_ns <= stamp_ns - clock.offset_ns <= after_ns:
        return taken, stamp_ns - clock.offset_ns, 0
    return taken, before_ns, after_ns - before_ns


def late_stamp(sock: socket.socket) -> int | None:
    """The next stamp (realtime ns) that waits in a socket's error queue; None where there is none.

    A stamp that waits makes the socket ready (EPOLLERR) until it is taken.
    """
    try:
        _, control, _, _ = sock.recvmsg(0, 512, _MSG_ERRQUEUE)
    except OSError:
        return None
    return stamp_of(control)
