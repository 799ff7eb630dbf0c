"""What was finished or sent survives in the files, whatever was cut off."""

import itertools
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.client.connection import InFlightRequest
from harness.client.journal import AnswerJournal, SentJournal, frame_starts, read_frames, read_sent

READS = st.lists(st.tuples(st.binary(max_size=50), st.integers(0, 2**62)), max_size=6)
FAILURES = st.sampled_from(["", "reset", "timeout"])


def request(seq, reads, failure="", message=""):
    """A finished request that came in some reads."""
    one = InFlightRequest(seq, b"", 5, lambda _: None)
    one.ready_ns, one.sent_ns, one.done_ns, one.connect_ns, one.resends = 6, 7, 8, 9, seq % 2
    one.pieces, one.stamps = [piece for piece, _ in reads], [stamp for _, stamp in reads]
    one.failure, one.message = failure, message
    return one


def spooled(exchanges, folder):
    """A spool of exchanges."""
    path = Path(folder) / "spool"
    spool = AnswerJournal(path)
    for one in exchanges:
        spool.append(one)
    spool.close()
    return path


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(READS, FAILURES, st.text(max_size=20)), max_size=6))
def test_frames_come_back_as_they_went(told):
    """Reading a spool is the inverse of writing it."""
    exchanges = [request(seq, *words) for seq, words in enumerate(told)]
    with tempfile.TemporaryDirectory() as folder:
        frames = list(read_frames(spooled(exchanges, folder)))

    assert [(f.seq, list(f.pieces), list(f.stamps), f.failure, f.message) for f in frames] == [
        (e.seq, e.pieces, e.stamps, e.failure, e.message) for e in exchanges
    ]
    assert all((f.ready_ns, f.sent_ns, f.done_ns, f.connect_ns) == (6, 7, 8, 9) for f in frames)


@settings(max_examples=50, deadline=None)
@given(st.lists(READS, min_size=1, max_size=5), st.data())
def test_a_spool_that_was_cut_loses_only_its_last_frame(reads, data):
    """Whatever byte a kill ends the file at, every frame that was whole is read, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = [spooled([request(seq, one)], folder).stat().st_size for seq, one in enumerate(reads)]
        path = spooled([request(seq, one) for seq, one in enumerate(reads)], folder)
        raw = path.read_bytes()
        cut = data.draw(st.integers(0, len(raw)))
        path.write_bytes(raw[:cut])
        found = [frame.seq for frame in read_frames(path)]

    assert found == [seq for seq, end in enumerate(itertools.accumulate(sizes)) if end <= cut]


@settings(max_examples=30, deadline=None)
@given(st.lists(READS, min_size=1, max_size=12), st.integers(1, 5))
def test_parts_of_a_spool_cover_it_once(reads, parts):
    """Cut at frame borders for several processes, a spool's parts hold each frame exactly once."""
    with tempfile.TemporaryDirectory() as folder:
        path = spooled([request(seq, one) for seq, one in enumerate(reads)], folder)
        ranges = frame_starts(path, parts)
        found = [frame.seq for start, stop in ranges for frame in read_frames(path, start, stop)]

    assert len(ranges) <= parts
    assert found == list(range(len(reads)))


def test_the_ledger_has_every_row_before_it_is_closed(tmp_path):
    """A row is in the file as soon as it is written, also past the first growth: nothing waits for a close."""
    ledger = SentJournal(tmp_path / "ledger")
    for seq in range(70_000):
        ledger.write(seq, (1, 2, seq + 10, 3, 1, 4), (100, 50, 900), (seq, seq + 1, seq + 2))
    rows = read_sent(tmp_path / "ledger")

    assert len(rows) == 70_000
    last = rows[-1]
    assert [int(last[name]) for name in ("stage", "repeat", "session", "turn", "measured")] == [1, 2, 70_009, 3, 1]
    assert [int(last[name]) for name in ("request_class", "sent_bytes")] == [4, 900]
    assert [int(last[name]) for name in ("input_asked", "output_asked", "due_ns", "sent_ns")] == [
        100,
        50,
        69_999,
        70_001,
    ]
    ledger.close()


def test_an_empty_ledger_has_no_rows(tmp_path):
    """A worker that sent nothing leaves an empty account."""
    SentJournal(tmp_path / "ledger").close()

    assert len(read_sent(tmp_path / "ledger")) == 0
