"""`python -m harness.selfcheck.reference_server`: serve until SIGTERM, the end of --life, or with --tied of stdin.

One line on stdout, the URL, says that it listens.
"""

import argparse
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from harness.selfcheck.reference_server.ground_truth import TokenSchedule, write
from harness.selfcheck.reference_server.server import TokenServer
from harness.units import parse_duration, seconds_to_ns

BACKLOG = 4096


def main() -> int:
    """Parse, listen, serve, keep the log."""
    options = _parser().parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    _raise_file_limit()
    _tighten_timers()
    with socket.create_server(("127.0.0.1", options.port), backlog=BACKLOG) as listener:
        _plain_congestion(listener)
        stop_fd = _stop_signals(options.life)
        schedule = TokenSchedule(
            seconds_to_ns(options.first), seconds_to_ns(options.gap), options.chunk_tokens, options.model
        )
        server = TokenServer(listener, schedule, (stop_fd, 0) if options.tied else (stop_fd,))
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        gc.freeze()
        gc.disable()  # nothing here makes cycles, and a collection would delay a token
        server.run()
    if options.log is not None:
        write(server.truth.sent(), options.log)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.selfcheck.reference_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--first", type=parse_duration, default="50ms", help="request read to first token")
    parser.add_argument("--gap", type=parse_duration, default="10ms", help="event to event")
    parser.add_argument("--chunk-tokens", type=int, default=1, help="tokens an event")
    parser.add_argument("--model", default="reference-server", help="the name it answers to")
    parser.add_argument("--log", type=Path, help="where to keep what was sent (.npz)")
    parser.add_argument("--core", type=int, help="stay on this processor core")
    parser.add_argument("--life", type=parse_duration, default="1h", help="end after this long at the latest")
    parser.add_argument("--tied", action="store_true", help="end when stdin does: with the process that holds it")
    return parser


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _plain_congestion(listener: socket.socket) -> None:
    """Where the system's default is BBR, its pacing would cost half a microsecond a token and delay tokens."""
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def _tighten_timers() -> None:
    """Ask Linux to wake us when asked to, and not up to 50 µs later."""
    slack = Path("/proc/self/timerslack_ns")
    if slack.exists():
        slack.write_text("1", encoding="ascii")


def _stop_signals(life_s: float) -> int:
    """A descriptor that can be read once SIGTERM or SIGINT came, or `life_s` has passed."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, life_s)
    return readable


if __name__ == "__main__":
    sys.exit(main())
