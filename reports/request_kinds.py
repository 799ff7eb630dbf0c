"""Figures of a run that depend on the kinds of its requests: rates, latencies and counts that these have."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.messages import localized
from harness.units import format_bytes, format_count, format_share

Stage = Mapping[str, Any]
DOCUMENT_RATES = (
    ("document_rate", "page.stages.documents", "doc/s"),
    ("input_token_rate", "page.stages.input", "tokens/s"),
)
OUTPUT_RATES = (("output_token_rate", "page.stages.output", "tokens/s"),)


def is_pooled(stages: Sequence[Stage]) -> bool:
    """Whether answers have no tokens: documents were embedded or scored."""
    return any(stage.get("documents") for stage in stages)


def throughputs(stages: Sequence[Stage]) -> Sequence[tuple[str, str, str]]:
    """The rates of what an engine brings: key of summary.json, code of the name, unit."""
    return DOCUMENT_RATES if is_pooled(stages) else OUTPUT_RATES


def latency_metrics(stages: Sequence[Stage], *, by_clock: bool) -> tuple[str, ...]:
    """The latencies that matter most: without those that answers of these kinds do not have."""
    user = "_user" if by_clock else ""
    if is_pooled(stages):
        return (f"e2e{user}",)
    answer = (f"ttft_answer{user}",) if any(stage.get("reasoning_tokens") for stage in stages) else ()
    return (f"ttft{user}", *answer, "tpot", f"e2e{user}")


def further_counts(stage: Stage) -> list[tuple[str, str]]:
    """Counts of a stage that only requests of some kinds have: names and values."""
    forms = stage.get("forms") or {}
    rows = [
        ("page.counts.documents", stage.get("documents"), format_count),
        ("page.counts.reasoning_tokens", stage.get("reasoning_tokens"), format_count),
        ("page.counts.image_tokens", stage.get("image_tokens"), format_count),
        ("page.counts.sent_bytes", stage.get("sent_bytes"), format_bytes),
        ("page.counts.forms", forms["kept"] / forms["held"] if forms.get("held") else None, format_share),
    ]
    return [(localized(code), write(value)) for code, value, write in rows if value is not None]
