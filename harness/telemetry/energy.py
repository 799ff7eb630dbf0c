"""Energy of an output token, where the power of the NPUs is known.

Power is integrated over the stage's window by the trapezoidal rule, held to the window's edges,
and summed over the cards that were in use; the energy of the host is not in it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis.steady_state import Window
from harness.results.request_table import Samples
from harness.statistics.intervals import Floats
from harness.units import NS_PER_S

DEVICE = "device-"
IN_USE_MEMORY = 0.1  # of a chip's memory; an idle one shows 3 to 5 %, an engine takes most of it
IN_USE_CORES = 0.01
LONGEST_GAP_S = 15.0  # between readings of power; beyond, what lies between is not known


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of the cards in use over a window, and the tokens that came out meanwhile."""

    joules: float
    mean_watts: float
    output_tokens: float
    cards: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it, under a stage's `energy`."""
        per_token = self.joules / self.output_tokens if self.output_tokens > 0 else None
        return {"joules_per_output_token": per_token, "mean_watts": self.mean_watts, "cards": list(self.cards)}


def energy_of(samples: Samples, window: Window, output_tokens: float) -> Energy | None:
    """Energy within `window`, in which so many tokens came; None where the power of a card in use is not known."""
    inside = samples.take((samples.at_ns >= window.start_ns) & (samples.at_ns <= window.end_ns))
    cards = tuple(sorted({card_of(source) for source in chips_in_use(inside)}))
    joules = [_joules(inside, card, window) for card in cards]
    known = [joule for joule in joules if joule is not None]
    if not known or len(known) < len(cards) or window.length_s <= 0:
        return None
    return Energy(sum(known), sum(known) / window.length_s, output_tokens, cards)


def chips_in_use(inside: Samples) -> set[str]:
    """Sources of the chips that hold much memory or compute; all where neither is told of any."""
    chips = {str(source) for source in inside.source if str(source).startswith(DEVICE)}
    limits = {"memory_share": IN_USE_MEMORY, "core_share": IN_USE_CORES}
    readings = {chip: [values_of(inside, chip, name) for name in limits] for chip in chips}
    if not any(len(values) for pair in readings.values() for values in pair):
        return chips
    return {
        chip
        for chip, pair in readings.items()
        if any(len(values) and values.mean() > limit for values, limit in zip(pair, limits.values(), strict=True))
    }


def card_of(source: str) -> str:
    """The card that a chip sits on: its power is told for both together."""
    return source.partition(".")[0]


def values_of(samples: Samples, source: str, name: str) -> Floats:
    """Values of one name from one source."""
    return np.asarray(samples.value[(samples.source == source) & (samples.name == name)], dtype=np.float64)


def _joules(inside: Samples, card: str, window: Window) -> float | None:
    """The integral of a card's power; its second chip tells none of its own, or a part to be added."""
    sources = sorted({str(source) for source in inside.source if card_of(str(source)) == card})
    parts = [_integral(inside, source, window) for source in sources]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _integral(inside: Samples, source: str, window: Window) -> float | None:
    rows = (inside.source == source) & (inside.name == "watts")
    order = np.argsort(inside.at_ns[rows], kind="stable")
    at_ns, watts = inside.at_ns[rows][order], inside.value[rows][order]
    edges_ns = np.asarray([window.start_ns, *at_ns, window.end_ns], dtype=np.int64)
    if not len(at_ns) or np.diff(edges_ns).max() > LONGEST_GAP_S * NS_PER_S:
        return None
    held = np.asarray([watts[0], *watts, watts[-1]])
    return float(((held[1:] + held[:-1]) / 2 * np.diff(edges_ns)).sum() / NS_PER_S)
