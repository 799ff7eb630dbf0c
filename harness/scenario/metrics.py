"""The metrics of a stage, their statistics and units, and the measures that a gate names: the one list of them.

A measure is a metric and its statistic (`ttft_p99`), a rate (`output_token_rate`), `failed_share`, `acceptance_rate` or
`mean_accepted_length` of speculation, `prefix_hit_rate`, or `kernel_time`.
Latencies are in seconds, rates per second.
"""

import re
from dataclasses import dataclass

from harness.errors import suggestion
from harness.messages import Message, message

ANSWER_TIMES = ("ttft_answer", "ttft_answer_user")  # to the first token that is no reasoning
LATENCIES = (  # what an objective may limit
    *("ttft", "ttft_user", *ANSWER_TIMES, "tpot", "itl", "chunk_gap", "e2e", "e2e_user"),
)
CLIENT_TIMES = ("send_lag", "queue_wait", "connect")  # the client's own, which no objective limits
TIMES = (*LATENCIES, *CLIENT_TIMES)  # in the order of summary.json
GAPS = ("itl", "chunk_gap")  # of single tokens and events; the others are of requests
USER_VIEW = {
    "ttft": "ttft_user",
    "ttft_answer": "ttft_answer_user",
    "e2e": "e2e_user",
}  # in an open loop a user waits from the due time
STREAMED_ONLY = ("ttft", "ttft_user", *ANSWER_TIMES, "tpot", *GAPS)  # an answer in one piece says nothing of its tokens
STATISTICS = ("mean", "p50", "p90", "p95", "p99")  # that a comparison knows
RATE_UNITS = {
    "request_rate": "req/s",
    "output_token_rate": "tok/s",
    "total_token_rate": "tok/s",
    "input_token_rate": "tok/s",
    "document_rate": "doc/s",
    "goodput": "req/s",
}
RATES = tuple(RATE_UNITS)
ACCEPTANCE_RATE, ACCEPTED_LENGTH = "acceptance_rate", "mean_accepted_length"
ACCEPTANCE = (ACCEPTANCE_RATE, ACCEPTED_LENGTH)  # of engines that speculate
FAILED_SHARE = "failed_share"
PREFIX_HIT_RATE = "prefix_hit_rate"  # that the engines counted
COUNTED = (*ACCEPTANCE, PREFIX_HIT_RATE)  # by engines, and not by request
SHARES = (FAILED_SHARE, PREFIX_HIT_RATE)  # which may be 0, so that a difference of them is no ratio
KERNEL_TIME = "kernel_time"  # of a case of kernels, in place of a stage; always its median
_WHOLE = "|".join((*RATES, *COUNTED, FAILED_SHARE, KERNEL_TIME))
PATTERN = rf"({'|'.join(LATENCIES)})_({'|'.join(STATISTICS)})|{_WHOLE}"
_KEY = re.compile(PATTERN)
NAMES = {
    "ttft": message("metrics.ttft"),
    "ttft_user": message("metrics.ttft_user"),
    "ttft_answer": message("metrics.ttft_answer"),
    "ttft_answer_user": message("metrics.ttft_answer_user"),
    "tpot": message("metrics.tpot"),
    "itl": message("metrics.itl"),
    "chunk_gap": message("metrics.chunk_gap"),
    "e2e": message("metrics.e2e"),
    "e2e_user": message("metrics.e2e_user"),
    "request_rate": message("metrics.request_rate"),
    "output_token_rate": message("metrics.output_token_rate"),
    "total_token_rate": message("metrics.total_token_rate"),
    "input_token_rate": message("metrics.input_token_rate"),
    "document_rate": message("metrics.document_rate"),
    "goodput": message("metrics.goodput"),
    ACCEPTANCE_RATE: message("metrics.acceptance_rate"),
    ACCEPTED_LENGTH: message("metrics.mean_accepted_length"),
    FAILED_SHARE: message("metrics.failed_share"),
    PREFIX_HIT_RATE: message("metrics.prefix_hit_rate"),
    KERNEL_TIME: message("metrics.kernel_time"),
}


def statistic_name(metric: str, statistic: str) -> Message:
    """A statistic of a latency in words, such as `p99 TTFT`."""
    name = message("metrics.mean") if statistic == "mean" else statistic
    return message("metrics.statistic", statistic=name, metric=NAMES[metric])


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure: its name in a gate, the metric that holds it, and its statistic (`mean` of a rate or share)."""

    key: str
    metric: str
    statistic: str = "mean"

    @property
    def more_is_better(self) -> bool:
        """Whether a larger value is the better one."""
        return self.metric in RATES or self.metric in COUNTED

    @property
    def is_latency(self) -> bool:
        """Whether it is a time: of single requests, of gaps, or of a kernel's launch."""
        return self.metric in LATENCIES or self.metric == KERNEL_TIME

    @property
    def ratio(self) -> bool:
        """Whether a difference is told as a ratio: a share of nothing has none."""
        return self.metric not in SHARES


def measure_of(key: str) -> Measure:
    """The measure of a key such as `ttft_p99`.

    Raises:
        ValueError: where there is none, with the nearest.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        known = [*(f"{metric}_{statistic}" for metric in LATENCIES for statistic in ("p99", "p50", "mean")), *RATES]
        raise ValueError(f"unknown measure; {suggestion(key, [*known, *COUNTED, FAILED_SHARE, KERNEL_TIME])}")
    if key == KERNEL_TIME:
        return Measure(key, key, "p50")
    return Measure(key, match[1], match[2]) if match[1] else Measure(key, key)
