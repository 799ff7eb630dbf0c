"""What is a figure on the page: an SVG with a name, an alternative text and a way to read it?"""

from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure

from reports.figures.style import Head
from reports.svg import inline


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure as it stands on the page: its SVG, its id there, and how to read it."""

    name: str
    svg: Markup
    caption: str


def drawn(figure: Figure, name: str, head: Head, description: str, caption: str = "") -> Drawing:
    """A figure as a drawing; `name` is its id, `description` its alternative text with numbers."""
    return Drawing(name, inline(figure, name, title=head.full_title, description=description), caption)
