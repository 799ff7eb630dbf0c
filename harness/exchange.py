"""What passes between the load and the wire for one request: its bytes, and the stamped bytes of its answer?"""

from collections.abc import Callable

from harness import bounds
from harness.records import MISSING


class Exchange:
    """One request on its way: built before it is due, filled in by the wire, over when `on_done` is called.

    Mutable on purpose, and with slots: this is the only value of the hot path. `pieces` are the
    raw bytes of the answer as the socket gave them, `stamps` when the kernel had each (or, where it
    says nothing, when it was read), `lates` how much later it was read; `spreads` has, for reads that
    were late, their number and how much earlier than the stamp their first byte may have come.
    `sent_bound_ns` is how much later than `sent_ns` the request may have left. Times are absolute
    monotonic nanoseconds. `failure` is a short stable error name, or empty. `asked` is how many tokens
    are to come: what the bounds of an answer depend on.
    """

    __slots__ = (
        "asked", "connect_ns", "done_ns", "due_ns", "failure", "lates", "message", "on_done", "payload", "pieces",
        "ready_ns", "resends", "sent_bound_ns", "sent_ns", "seq", "spreads", "stamps",
    )  # fmt: skip

    def __init__(self, seq: int, payload: bytes, due_ns: int, on_done: "Callable[[Exchange], None]") -> None:
        self.seq = seq
        self.payload = payload
        self.due_ns = due_ns
        self.ready_ns = due_ns
        self.on_done = on_done
        self.sent_ns = MISSING
        self.sent_bound_ns = 0
        self.done_ns = MISSING
        self.connect_ns = 0
        self.resends = 0
        self.failure = ""
        self.message = ""
        self.pieces: list[bytes] = []
        self.stamps: list[int] = []
        self.lates: list[int] = []
        self.spreads: list[int] = []
        self.asked = 0

    def cut(self) -> None:
        """Keep only the beginning of an answer that broke a bound: its head and some words."""
        kept, size = 0, 0
        while kept < len(self.pieces) and size < bounds.KEPT_BYTES:
            size += len(self.pieces[kept])
            kept += 1
        del self.pieces[kept:], self.stamps[kept:], self.lates[kept:]
        self.spreads.clear()
        if size > bounds.KEPT_BYTES:
            self.pieces[-1] = self.pieces[-1][: bounds.KEPT_BYTES - size]
