"""Reads of an answer, and what they leave open about the arrival of its events."""

from hypothesis import given
from hypothesis import strategies as st

from harness.client.journal_decoding import UNKNOWN, stamp_quality

MS = 1_000_000


def test_prompt_reads_leave_nothing_open():
    """Where no read was late, the first token is exact and no event is blurred."""
    found = stamp_quality([10, 20], 0, [10, 20], [3, 5], [])

    assert (found.first_bound_ns, found.late_ns, found.blurred) == (0, 5, 0)


def test_without_kernel_stamps_nothing_is_known():
    """A read without a stamp makes the answer's uncertainty unknown, and so does an answer without reads."""
    assert stamp_quality([10], 0, [10, 20], [-1, 5], []) == UNKNOWN
    assert stamp_quality([], 0, [], [], []) == UNKNOWN


def test_server_that_sends_two_tokens_at_once_is_not_blamed():
    """Two events in one prompt read are no blur: they came together."""
    assert stamp_quality([10, 10], 0, [10], [2], []).blurred == 0


def test_first_token_in_a_late_read_is_bounded_by_the_read_before_and_by_the_send():
    """A first event that shares a late read came after the request left, and after the read before."""
    assert stamp_quality([50, 50, 60], 0, [50, 60], [9, 1], [0, 999]).first_bound_ns == 50
    assert stamp_quality([50, 50, 60], 0, [30, 50, 60], [0, 9, 1], [1, 999]).first_bound_ns == 20
    assert stamp_quality([50, 50, 60], 0, [30, 50, 60], [0, 9, 1], [1, 7]).first_bound_ns == 7


@st.composite
def histories(draw):
    """Arrivals of single-event segments, and the times at which a reader looked: what it read, and the truth."""
    arrivals = sorted(draw(st.lists(st.integers(1, 100 * MS), min_size=1, max_size=30, unique=True)))
    looks = sorted({*draw(st.lists(st.integers(1, 120 * MS), min_size=1, max_size=30)), 130 * MS})
    at_ns, stamps, lates, spreads, before_ns = [], [], [], [], 0
    for look_ns in looks:
        came = [at for at in arrivals if before_ns < at <= look_ns]
        if came:
            late_ns = look_ns - came[-1]
            if late_ns >= MS // 5:
                spreads += [len(stamps), came[-1] - before_ns]
            elif len(came) > 1:
                came = came[-1:]  # a prompt reader would have seen the others one by one
                arrivals = [at for at in arrivals if not before_ns < at <= look_ns or at == came[-1]]
            stamps.append(came[-1])
            lates.append(late_ns)
            at_ns += came[-1:] * len(came)
        before_ns = look_ns
    return arrivals, at_ns, stamps, lates, spreads


@given(histories())
def test_truth_lies_within_the_bound(history):
    """Whenever a reader looks, the first token's true arrival is within the bound, and blurred events are counted."""
    arrivals, at_ns, stamps, lates, spreads = history
    found = stamp_quality(at_ns, 0, stamps, lates, spreads)

    assert at_ns[0] - found.first_bound_ns <= arrivals[0] <= at_ns[0]
    assert found.blurred == sum(true != stamp for true, stamp in zip(arrivals, at_ns, strict=True))
