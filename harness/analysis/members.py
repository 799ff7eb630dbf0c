"""The requests of a stage that belong to its numbers.

The one definition, used by every number of a stage. Warm-up belongs to none of them.

- `sent`: measured requests that were sent within the window [start, end]. The client's own
  delays are theirs.
- `answered`: those of `sent` that completed. Latencies and gaps between tokens are theirs, whenever
  their answer ended: to ask for an end within the window would leave out the slow ones.
- `failed`: measured requests that failed and were sent (or, where they never were, due) within the
  window. They count as infinitely late against an objective.
- `ended`: measured requests that completed and whose answer ended within the window's part for
  rates (rates start, end], whenever they were sent. Every rate counts these and nothing else:
  requests, their tokens in and out, their events, those of them that are good.
- `over`: `ended`, and what failed or was cancelled after it was sent and was over in that part: all
  that left the system then. Little's law is about these.

Latencies and rates are of different requests because they ask different things: how long did
those wait that came then, and how many left a second. In a queue that grows these are never the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis.steady_state import Span, Window, ended_ns
from harness.analysis.token_gaps import Mask
from harness.results.request_table import COMPLETED, FAILED, MEASURED, MISSING, Requests
from harness.units import NS_PER_S

RATES_WINDOW = "rates_window"


@dataclass(frozen=True, slots=True)
class RequestMasks:
    """The rows of a stage that belong to its numbers, as masks over its rows. Warm-up belongs to none.

    - `sent`: measured requests that were sent within the window [start, end]. The client's own
      delays are theirs.
    - `answered`: those of `sent` that completed. Latencies and gaps between tokens are theirs, whenever
      their answer ended: to ask for an end within the window would leave out the slow ones.
    - `failed`: measured requests that failed and were sent (or, where they never were, due) within the
      window. They count as infinitely late against an objective.
    - `ended`: measured requests that completed and whose answer ended within the window's part for
      rates (rates start, end], whenever they were sent. Every rate counts these and nothing else:
      requests, their tokens in and out, their events, those of them that are good.
    - `over`: `ended`, and what failed or was cancelled after it was sent and was over in that part: all
      that left the system then. Little's law is about these.
    """

    sent: Mask
    answered: Mask
    failed: Mask
    ended: Mask
    over: Mask


def request_masks(requests: Requests, window: Window, span: Span) -> RequestMasks:
    """The rows that belong to each of the numbers of a stage, of all its rows."""
    measured = requests.phase == MEASURED
    was_sent = requests.sent_ns != MISSING
    began = np.where(was_sent, requests.sent_ns, np.maximum(requests.ready_ns, requests.due_ns))
    inside = measured & (began >= max(0, window.start_ns)) & (began <= window.end_ns)
    over_ns = ended_ns(requests, span.end_ns)
    over = measured & was_sent & (over_ns > window.rates_ns) & (over_ns <= window.end_ns)
    completed = requests.status == COMPLETED
    return RequestMasks(
        sent=inside & was_sent,
        answered=inside & was_sent & completed,
        failed=inside & (requests.status == FAILED),
        ended=over & completed,
        over=over,
    )


def offered(requests: Requests, window: Window, span: Span) -> tuple[int, float]:
    """How many measured requests were due within the part for rates while requests were sent, and its length (s)."""
    end_ns = min(window.end_ns, span.stop_ns)
    start_ns = window.rates_ns if window.rates_ns < end_ns else span.start_ns
    due = (requests.phase == MEASURED) & (requests.due_ns > start_ns) & (requests.due_ns <= end_ns)
    return int(due.sum()), (end_ns - start_ns) / NS_PER_S


def rows_of_rates(requests: Requests, stage: Mapping[str, Any]) -> Requests:
    """The rows of requests.parquet that the rates of a stage of summary.json count.

    The rule, for any tool: `stage` and `repeat` are the stage's, `phase` is measured, `status` is
    completed, and start_ns < done_ns <= end_ns of the stage's `rates_window`.
    """
    window = stage[RATES_WINDOW]
    own = (requests.stage == stage["index"]) & (requests.repeat == stage["repeat"])
    counted = own & (requests.phase == MEASURED) & (requests.status == COMPLETED)
    done = (requests.done_ns > window["start_ns"]) & (requests.done_ns <= window["end_ns"])
    return requests.take(counted & done)
