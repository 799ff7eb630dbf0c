"""A figure on the page: an SVG with a title, an alternative text and a caption."""

from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure

from reports.figures.style import Head
from reports.svg import inline


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure as it stands on the page: its id there, what is written above it, its SVG, and how to read it."""

    name: str
    title: str
    subtitle: str
    svg: Markup
    caption: str


def drawn(figure: Figure, name: str, head: Head, description: str, caption: str = "") -> Drawing:
    """A figure as a drawing; `name` is its id, `description` its alternative text with numbers."""
    svg = inline(figure, name, title=head.full_title, description=description)
    return Drawing(name, head.full_title, head.subtitle, svg, caption)
