"""What does each word of the page mean? The one definition, shown beside the word and at the end."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """A word of the page: how it is printed, and what it means in a sentence or two."""

    name: str
    meaning: str


TERMS: Mapping[str, Term] = {
    "sent": Term(
        "sent", "The moment the request's bytes were handed to the transport, its slot and connection in hand."
    ),
    "due": Term("due", "The moment the arrival process wanted the request, fixed before the run began."),
    "ttft": Term(
        "TTFT from sent", "Time to first token: from sending the request to the first event that carries a token."
    ),
    "ttft_user": Term(
        "TTFT from due",
        "Time to first token as a user feels it: from the moment the request was due, waiting for a slot included. "
        "In open loop the limits are held against this view.",
    ),
    "tpot": Term(
        "TPOT",
        "Time per output token of one request: (last - first token) / (tokens - tokens in the first event). "
        "A request with nothing after its first event has none.",
    ),
    "itl": Term(
        "ITL",
        "Inter-token latency: every gap between tokens, all requests pooled. "
        "An event of k tokens counts as k gaps of gap / k.",
    ),
    "chunk_gap": Term("Chunk gap", "The gap between two events of a stream, however many tokens each carries."),
    "e2e": Term("E2E from sent", "End to end: from sending the request to its last token."),
    "e2e_user": Term(
        "E2E from due", "End to end as a user feels it: from the moment the request was due to its last token."
    ),
    "send_lag": Term(
        "Send lag", "How late the client itself was: sent - due (or - free slot). It should be close to nothing."
    ),
    "queue_wait": Term("Queue wait", "How long a request that was due waited for a slot of max_concurrency."),
    "connect": Term("Connect", "The time to open a connection, of those requests that had to open one."),
    "offered_rate": Term("Offered", "Requests that came due per second, in the same part of the window as the rates."),
    "request_rate": Term(
        "Request rate",
        "Answers of the stage's own requests that ended in the steady part of sending, per second: after the last "
        "answer of a warm-up and after the ramp-up of the answers. The stage's text says when that part begins.",
    ),
    "output_token_rate": Term(
        "Output tokens", "Output tokens of those answers, per second: request rate times their mean length."
    ),
    "total_token_rate": Term("All tokens", "Prompt tokens and output tokens of those answers, per second."),
    "goodput": Term(
        "Goodput", "Those of the answers that rates count that met every limit on a single request, per second."
    ),
    "concurrency": Term(
        "In flight",
        "Requests of the stage sent and not yet over at the same moment: mean over the part that rates are of, and "
        "the most.",
    ),
    "p99": Term("p50, p90, p99", "The value that 50, 90 or 99 % of the values stay under (linear between ranks)."),
    "ci95": Term(
        "95 % interval",
        "Where the true value lies with 95 % confidence. Requests of one run resemble their neighbours, so they count "
        "as fewer independent ones. Left out where these are too few, with the length of run that would do.",
    ),
    "window": Term(
        "Window",
        "The part of a stage that is measured: latencies are of requests sent in it, rates of answers that ended "
        "in it. Warm-up, and what a test finds unsteady, are kept but not counted.",
    ),
    "warmup": Term("Warm-up", "Requests sent before the first measured stage; recorded and marked, never counted."),
    "open": Term("Open loop", "Requests come by the clock, whether or not earlier ones have been answered."),
    "closed": Term(
        "Closed loop", "A fixed number of users; each sends its next request when the last one is answered."
    ),
    "offline": Term(
        "Offline", "All requests are handed to the engine's own LLM.generate in one call: no server between."
    ),
    "slo": Term("SLO", "A limit that the scenario sets. A failed request counts as infinitely slow against it."),
    "warning": Term(
        "Warning", "Something about this run that limits what may be concluded from it, with the next step to take."
    ),
}

METRIC_ORDER = ("ttft_user", "ttft", "tpot", "itl", "chunk_gap", "e2e_user", "e2e", "send_lag", "queue_wait", "connect")


def name_of(metric: str) -> str:
    """How a metric is called on the page."""
    return TERMS[metric].name if metric in TERMS else metric
