"""Requests of any fate, for properties of the analysis."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from harness.results.request_table import MEASURED, WARMUP
from tests.made_runs import answered, failed, never_sent, ns

times = st.integers(0, 40).map(lambda tenths: tenths / 10)


@st.composite
def any_pair(draw, index):
    """A request of any fate."""
    due, phase = draw(times), draw(st.sampled_from([MEASURED, MEASURED, WARMUP]))
    fate = draw(st.sampled_from(["answered", "failed", "cancelled", "never_sent"]))
    if fate == "never_sent":
        return never_sent(index, due, phase=phase)
    sent = due + draw(times)
    if fate != "answered":
        record, events = failed(
            index, due, sent + draw(times), draw(st.sampled_from(["timeout", "refused"])), phase=phase
        )
        return replace(record, sent_ns=ns(sent), status=fate, error="" if fate == "cancelled" else record.error), events
    tokens = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    arrivals = list(sent + np.cumsum([draw(times) for _ in tokens]))
    return answered(index, due, arrivals, tokens, sent=sent, phase=phase)
