"""The words of the page that need a meaning: each with how it is called, and with a sentence or two that explain it."""

from collections.abc import Mapping
from dataclasses import dataclass

from harness.messages import localized


@dataclass(frozen=True, slots=True)
class Term:
    """A word of the page: how it is called and what it means, as codes; names of the field stand as they are."""

    code: str
    meaning_code: str

    @property
    def name(self) -> str:
        """Its name."""
        return localized(self.code) if "." in self.code else self.code

    @property
    def meaning(self) -> str:
        """Its meaning."""
        return localized(self.meaning_code)


TERMS: Mapping[str, Term] = {
    "sent": Term("terms.sent", "terms.sent_meaning"),
    "due": Term("terms.due", "terms.due_meaning"),
    "ttft": Term("terms.ttft", "terms.ttft_meaning"),
    "ttft_user": Term("terms.ttft_user", "terms.ttft_user_meaning"),
    "ttft_answer": Term("terms.ttft_answer", "terms.ttft_answer_meaning"),
    "ttft_answer_user": Term("terms.ttft_answer_user", "terms.ttft_answer_user_meaning"),
    "tpot": Term("TPOT", "terms.tpot_meaning"),
    "itl": Term("ITL", "terms.itl_meaning"),
    "chunk_gap": Term("terms.chunk_gap", "terms.chunk_gap_meaning"),
    "e2e": Term("terms.e2e", "terms.e2e_meaning"),
    "e2e_user": Term("terms.e2e_user", "terms.e2e_user_meaning"),
    "send_lag": Term("terms.send_lag", "terms.send_lag_meaning"),
    "queue_wait": Term("terms.queue_wait", "terms.queue_wait_meaning"),
    "connect": Term("terms.connect", "terms.connect_meaning"),
    "offered_rate": Term("terms.offered_rate", "terms.offered_rate_meaning"),
    "request_rate": Term("terms.request_rate", "terms.request_rate_meaning"),
    "output_token_rate": Term("terms.output_token_rate", "terms.output_token_rate_meaning"),
    "total_token_rate": Term("terms.total_token_rate", "terms.total_token_rate_meaning"),
    "document_rate": Term("terms.document_rate", "terms.document_rate_meaning"),
    "input_token_rate": Term("terms.input_token_rate", "terms.input_token_rate_meaning"),
    "goodput": Term("terms.goodput", "terms.goodput_meaning"),
    "concurrency": Term("terms.concurrency", "terms.concurrency_meaning"),
    "p99": Term("terms.p99", "terms.p99_meaning"),
    "ci95": Term("terms.ci95", "terms.ci95_meaning"),
    "window": Term("terms.window", "terms.window_meaning"),
    "warmup": Term("terms.warmup", "terms.warmup_meaning"),
    "open": Term("terms.open", "terms.open_meaning"),
    "closed": Term("terms.closed", "terms.closed_meaning"),
    "offline": Term("terms.offline", "terms.offline_meaning"),
    "slo": Term("SLO", "terms.slo_meaning"),
    "warning": Term("terms.warning", "terms.warning_meaning"),
}

METRIC_ORDER = (
    *("ttft_user", "ttft", "ttft_answer_user", "ttft_answer", "tpot", "itl", "chunk_gap", "e2e_user", "e2e"),
    *("send_lag", "queue_wait", "connect"),
)


def name_of(metric: str) -> str:
    """The name of a metric on the page."""
    return TERMS[metric].name if metric in TERMS else metric
