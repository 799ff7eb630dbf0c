"""Prefill work: when the engine was busy with prompts, and which pauses that explains.

With chunked prefill a step serves running streams and a piece of a new prompt together, so a long
prompt makes the steps of all running streams long: prefill interference, no stall. The work of
each prompt is taken to end with its first token and to take its tokens divided by the speed of
prefill; of prompts whose work would overlap the earlier one is moved before the later one, and
none begins before its request was sent. The speed is the 90th percentile of prompt tokens by TTFT:
requests that did not queue show it. Beside many streams, and at the end of a long prompt, prefill is
slower: each work may have begun up to twice as long before its end, but not before the end of
the one before. A pause is explained where such work fills at least half of it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.results.request_table import MISSING
from harness.statistics.intervals import Floats

LEAST_PROMPT = 256  # tokens; below, a step is not long because of a prompt, and TTFT says little of its speed
SPEED_SHARE = 0.9
SLOWEST = 2.0  # times slower than the speed
LEAST_EXPLAINED = 0.5  # of a pause

Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PrefillWork:
    """Times at which prefill began and ended in turn (ns), and how much of it was done up to each."""

    at_ns: Floats
    done_ns: Floats

    def explains(self, start_ns: Times, end_ns: Times) -> NDArray[np.bool_]:
        """Whether prefill fills at least half of each pause."""
        if not len(self.at_ns):
            return np.zeros(len(start_ns), dtype=bool)
        within = np.interp(end_ns, self.at_ns, self.done_ns) - np.interp(start_ns, self.at_ns, self.done_ns)
        return np.asarray((end_ns > start_ns) & (within >= LEAST_EXPLAINED * (end_ns - start_ns)))


NO_WORK = PrefillWork(np.zeros(0), np.zeros(0))


def prefill_work(sent_ns: Times, first_ns: Times, prompt_tokens: Times) -> PrefillWork:
    """When the prompts of these requests were prefilled; those without a first token or a long prompt are left out."""
    known = (sent_ns != MISSING) & (first_ns != MISSING) & (first_ns > sent_ns) & (prompt_tokens >= LEAST_PROMPT)
    if not known.any():
        return NO_WORK
    order = np.argsort(first_ns[known], kind="stable")
    sent, first, tokens = (column[known][order] for column in (sent_ns, first_ns, prompt_tokens))
    takes = tokens / float(np.quantile(tokens / (first - sent), SPEED_SHARE))
    ends, begun = np.empty(len(takes)), float("inf")
    for i in range(len(takes) - 1, -1, -1):
        ends[i] = max(min(float(first[i]), begun), float(sent[i]))
        begun = max(float(sent[i]), ends[i] - float(takes[i]))
    ends = np.maximum.accumulate(ends)
    before = np.concatenate([[-np.inf], ends[:-1]])
    starts = np.minimum(np.maximum.reduce([sent.astype(np.float64), before, ends - SLOWEST * takes]), ends)
    at_ns = np.column_stack([starts, ends]).ravel()
    return PrefillWork(at_ns, np.repeat(np.cumsum(ends - starts), 2) - _first_of_pair(at_ns))


def _first_of_pair(at_ns: Floats) -> Floats:
    """What each interval adds is not yet done where it begins."""
    added = at_ns[1::2] - at_ns[::2]
    return np.column_stack([added, np.zeros(len(added))]).ravel()
