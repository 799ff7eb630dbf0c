"""A figure as SVG that can stand in a page with others.

matplotlib writes a document of its own: XML head, metadata with addresses, names that every
figure repeats, six digits after the point. What remains here is one `<svg>` with a title and a
description for a screen reader, names of its own, and CSS variables in place of colours.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from reports.figures.style import TYPE, Head
from reports.palette import variable_of

_HEAD = re.compile(r"^.*?<svg[^>]*?>", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ID = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(url\(#|href="#)([^")]*)')
_COLOUR = re.compile(r"#0[12][0-9a-f]{4}\b")
_FAMILY = re.compile(r" font-family: [^;\"]*;?| transform=\"rotate\(-?0 [^\"]*\"")  # the page's own; no turn at all
_FONT = re.compile(r"font: ([^;'\"]*?)([\d.]+)px [^;\"]*")
_SIZE = re.compile(r"(font(?:-size)?: [^;'\"]*?)([\d.]+)px")
_PATH = re.compile(r' d="([^"]*)"')
_PLACES = re.compile(r' (x|y|transform|width|height)="([^"<>]*)"')
_DIGITS = re.compile(r"(\.\d\d)\d+")
_DOT = re.compile(r"M ([\d.-]+) ([\d.-]+) L \1 \2 ")
_PLAIN_STYLE = re.compile(r" ?stroke-linejoin: miter;?| ?stroke-linecap: butt;?")
_TIP = re.compile(r'<g id="tip:([^"]*)">')
_BETWEEN_TAGS = re.compile(r">\s+<")


def inline(figure: Figure, name: str, *, title: str, description: str) -> Markup:
    """The figure as an `<svg>` element; `name` is unique within the page and prefixes its ids."""
    written = io.StringIO()
    FigureCanvasSVG(figure).print_svg(written)  # type: ignore[no-untyped-call]
    return Markup(_head(figure, name, title, description) + _body(written.getvalue(), name))  # noqa: S704 - matplotlib escapes texts, we the rest


def _head(figure: Figure, name: str, title: str, description: str) -> str:
    width, height = (round(side * 72) for side in figure.get_size_inches())
    labels = f"{name}-title {name}-description"
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {width} {height}" aria-labelledby="{labels}">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
    )


def _body(text: str, name: str) -> str:
    text = _COMMENT.sub("", _METADATA.sub("", _HEAD.sub("", text, count=1)))
    text = text.replace("xlink:href", "href")
    text = _TIP.sub(r"<g><title>\g<1></title>", text)  # hovering shows the point's numbers
    used = {target for _, target in _REFERENCE.findall(text)}
    text = _ID.sub(lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", text)
    text = _REFERENCE.sub(rf"\g<1>{name}-\g<2>", text)
    text = _PATH.sub(_shorter_path, text)
    text = _PLACES.sub(lambda match: f' {match[1]}="{_DIGITS.sub(lambda d: d[1], match[2])}"', text)
    text = _FAMILY.sub("", _FONT.sub(r"font: \g<1>\g<2>px var(--sans)", text))
    text = _SIZE.sub(_share, text)
    text = _COLOUR.sub(_variable, _PLAIN_STYLE.sub("", text))
    return _BETWEEN_TAGS.sub("><", text).strip()


def _shorter_path(match: re.Match[str]) -> str:
    """Two digits are a hundredth of a pixel; a line from a point to itself is a dot (round caps)."""
    flat = _DIGITS.sub(lambda digits: digits[1], " ".join(match[1].split())) + " "
    return f' d="{_DOT.sub(_dot, flat).strip()}"'


def _dot(match: re.Match[str]) -> str:
    return f"M{match[1]} {match[2]}h0"


def _share(match: re.Match[str]) -> str:
    """A size of type as a share of the figure's own, which the page sets by the room there is."""
    return f"{match[1]}{round(float(match[2]) / TYPE, 2):g}em"


def _variable(match: re.Match[str]) -> str:
    name = variable_of(match[0])
    return f"var(--{name})" if name else match[0]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure as it stands on the page: its id there, what is written above it, its SVG, and how to read it.

    `panels` are those over time that the page's script draws in place of the SVG (`reports.live_data`);
    `live_caption` is of those. `readout` is what its pointer reads from the SVG itself (`reports.readout`).
    """

    name: str
    title: str
    subtitle: str
    svg: Markup
    caption: str
    panels: Sequence[Any] = ()
    readout: Mapping[str, Any] | None = None
    live_caption: str = ""


def drawn(
    figure: Figure, name: str, head: Head, description: str, caption: str = "", *, panels: Sequence[Any] = ()
) -> Drawing:
    """A figure as a drawing; `name` is its id, `description` its alternative text with numbers."""
    svg = inline(figure, name, title=head.full_title, description=description)
    return Drawing(name, head.full_title, head.subtitle, svg, caption, panels)
