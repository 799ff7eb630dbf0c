"""Rounds of the users of a closed loop: how many its window holds, and whether they show a steady state.

Users that start at once go in step: they are answered together, send together and wait for each
other's prompts, round after round. Three things follow, and a window of few rounds shows all of them:

- A window that begins within one burst of answers and ends after another counts half a burst too
  many. So it ends where a whole number of rounds is over: as many answers as users, so many times.
  That is before the last request is sent, hence the drain, in which ever fewer users are active, is out.
- Fewer than five rounds are no steady state, as the first ones are still those of the first wave.
- Users leave the step only as their answers differ in length: after k rounds their phases are
  sqrt(k) times the spread of an answer apart. Until k (spread / mean)² reaches 0.04, the time to the first
  token was 3 % or more from that of a very long loop (16 to 64 simulated users, one prefill at a time).
  Users whose answers take all the same time (within 1 %) stay in step for good.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis.in_flight import most_in_flight
from harness.messages import Message, message
from harness.results.request_table import MEASURED, MISSING, Requests
from harness.units import NS_PER_S

LEAST_ROUNDS = 5
LEAST_SPREAD = 0.04  # rounds times squared variation of the time of an answer
ALL_THE_SAME = 0.01  # variation below which users never leave the step

Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rounds:
    """Whole rounds of `users` in a window that ends at `end_ns`; `reasons` say why they show no steady state."""

    users: int
    number: int
    end_ns: int
    reasons: tuple[Message, ...] = ()


def rounds(requests: Requests, done_ns: Times, start_ns: int, rates_ns: int, end_ns: int) -> Rounds:
    """The rounds of the window [start_ns, end_ns], which is to end with a whole round since `rates_ns`.

    `requests` are all rows of the stage, `done_ns` says when each was over. Where not even one round is over the
    window stays as it is.
    """
    sent = requests.sent_ns != MISSING
    users = most_in_flight(requests.sent_ns[sent], done_ns[sent], start_ns, end_ns)
    over = np.sort(done_ns[sent & (done_ns > rates_ns) & (done_ns <= end_ns)])
    whole = len(over) // users if users else 0
    end_ns = int(over[whole * users - 1]) if whole else end_ns
    number = int((sent & (done_ns > start_ns) & (done_ns <= end_ns)).sum()) // users if users else 0
    return Rounds(users, number, end_ns, _reasons(requests, done_ns, (start_ns, end_ns), users, number))


def _reasons(
    requests: Requests, done_ns: Times, window: tuple[int, int], users: int, number: int
) -> tuple[Message, ...]:
    own = (requests.phase == MEASURED) & (requests.sent_ns >= window[0]) & (requests.sent_ns <= window[1])
    if number < LEAST_ROUNDS:
        return _few(users, number), *_moved(requests, own, users)
    took = (done_ns - requests.sent_ns)[own]
    spread = float(took.std() / took.mean()) if len(took) and took.mean() else 0.0
    since = int((done_ns <= window[1]).sum()) / users
    if users == 1 or spread < ALL_THE_SAME or since * spread**2 >= LEAST_SPREAD or not _in_step(requests, users):
        return ()
    in_step = message("analysis.in_step", needed=LEAST_SPREAD / spread**2)
    return in_step, *_moved(requests, own, users)


def _few(users: int, number: int) -> Message:
    """That the window holds too few rounds."""
    if number == 0:
        return message("analysis.rounds_none", users=users, needed=LEAST_ROUNDS)
    if number == 1:
        return message("analysis.rounds_one", users=users, needed=LEAST_ROUNDS)
    return message("analysis.rounds_few", users=users, needed=LEAST_ROUNDS, rounds=number)


def _in_step(requests: Requests, users: int) -> bool:
    """Whether the users began together: most of their first requests were sent before any answer ended."""
    sent_ns, over_ns = requests.sent_ns[requests.sent_ns != MISSING], requests.done_ns[requests.done_ns != MISSING]
    first_over = int(over_ns.min(initial=np.iinfo(np.int64).max))
    return int((sent_ns < first_over).sum()) > max(1, users // 2)


def _moved(requests: Requests, own: NDArray[np.bool_], users: int) -> tuple[Message, ...]:
    """From where to where TTFT went between the first round of the stage and the last of the window."""
    known = (requests.first_ns != MISSING) & (requests.sent_ns != MISSING)
    first = np.flatnonzero(known & (requests.phase == MEASURED))
    last = np.flatnonzero(known & own)
    if min(len(first), len(last)) < users or users < 2:
        return ()
    waits = (requests.first_ns - requests.sent_ns) / NS_PER_S
    at_first = first[np.argsort(requests.sent_ns[first], kind="stable")][:users]
    at_last = last[np.argsort(requests.sent_ns[last], kind="stable")][-users:]
    before, after = float(waits[at_first].mean()), float(waits[at_last].mean())
    return (message("analysis.ttft_moved", before_s=before, after_s=after),)
