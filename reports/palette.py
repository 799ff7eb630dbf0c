"""Colours and what they mean, on light, dark and paper, for eyes of every kind.

Figures are drawn in stand-in colours that never appear on a page: `svg.inline` turns each into
a CSS variable, so that one drawing suits light, dark and print. Stages are a ramp that changes
in lightness as well as in hue, in the order of their load, and every line carries its name:
nothing rests on hue alone. Failures are crosses, limits are dashed.
"""

from collections.abc import Mapping, Sequence

INK = "#010101"
MUTED = "#010102"
GRID = "#010103"
SURFACE = "#010104"
ACCENT = "#010105"
BAD = "#010106"
LIMIT = "#010107"
WINDOW = "#010108"
WARM = "#010109"
QUEUE = "#01010a"
HEAT = ("#01010b", "#01010c", "#01010d", "#01010e", "#01010f")  # few to many: lighter or darker in one hue
STALL = "#010110"

VARIABLES: Mapping[str, str] = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SURFACE: "surface",
    ACCENT: "accent",
    BAD: "bad",
    LIMIT: "limit",
    WINDOW: "window",
    WARM: "warm",
    QUEUE: "queue",
    STALL: "stall",
    **{colour: f"heat-{level}" for level, colour in enumerate(HEAT, 1)},
}

_LIGHT = (
    "#3a9c97",
    "#2b7cb8",
    "#5655b6",
    "#7a2682",
    "#730031",
)  # 9 apart in lightness (CIE L*), so that the ramp holds without hue
_DARK = ("#2b8989", "#4999d6", "#a7a1fb", "#fdaafc", "#ffd9df")


ENGINE_COLOURS = 8  # of hue, as engines have no order; declared in page.css


def engine_colour(place: int) -> str:
    """The stand-in colour of the engine at a place, below `ENGINE_COLOURS`."""
    return f"#03{place:04x}"


def stage_colour(stage: int) -> str:
    """The stand-in colour of a stage by its number."""
    return f"#02{stage:04x}"


def variable_of(colour: str) -> str | None:
    """The CSS variable (without dashes) behind a stand-in colour; None for any other colour."""
    if colour.startswith("#03"):
        return f"engine-{int(colour[3:], 16)}"
    if colour.startswith("#02"):
        return f"stage-{int(colour[3:], 16)}"
    return VARIABLES.get(colour)


def stage_variables(count: int, *, dark: bool) -> str:
    """CSS declarations of the colours of `count` stages."""
    anchors = _DARK if dark else _LIGHT
    return "".join(f"--stage-{i}:{_between(anchors, place)};" for i, place in enumerate(_places(count)))


def _places(count: int) -> Sequence[float]:
    """The place of each stage on the ramp (0 to 1); a lone one is blue."""
    return (0.25,) if count == 1 else tuple(i / max(1, count - 1) for i in range(count))


def _between(anchors: Sequence[str], place: float) -> str:
    at = place * (len(anchors) - 1)
    low = min(int(at), len(anchors) - 2)
    pairs = zip(_channels(anchors[low]), _channels(anchors[low + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (at - low)):02x}" for a, b in pairs)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
