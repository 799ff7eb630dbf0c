"""The scripts that stand in a page, their words, and the policy that allows just these."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from harness.messages import localized

SCRIPTS = Path(__file__).parent / "script"
_EVERYWHERE = ("words.js", "tips.js", "tables.js")
_LIVE = (
    *("units.js", "dom.js", "data.js", "view.js", "panels.js", "lines.js", "marks.js", "keys.js"),
    *("record.js", "controls.js", "list.js", "curves.js", "start.js"),
)
UPLOT = Path(__file__).parent / "vendor" / "uplot"


@cache
def script() -> str:
    """The script of every page: explanations of words, and tables that can be sorted."""
    return _joined(_EVERYWHERE)


@cache
def live_script() -> str:
    """The script of the page of a run: that of every page, uPlot, and the panels that a reader can touch."""
    library = (UPLOT / "uPlot.iife.min.js").read_text(encoding="utf-8")
    return f"{_notice()}\n{library}\n{_joined([*_EVERYWHERE, *_LIVE])}"


def _notice() -> str:
    """What uPlot is, and the licence that its copies carry."""
    release = json.loads((UPLOT / "release.json").read_text(encoding="utf-8"))
    licence = (UPLOT / "LICENSE").read_text(encoding="utf-8").strip()
    return f"/*! {release['name']} {release['version']}, {release['source']}\n\n{licence}\n*/"


@cache
def live_styles() -> Markup:
    """The styles of uPlot."""
    return Markup((UPLOT / "uPlot.min.css").read_text(encoding="utf-8"))  # noqa: S704 - a file of ours


def _joined(names: Sequence[str]) -> str:
    """Several files as one function, so that their names stay within it."""
    parts = [(SCRIPTS / name).read_text(encoding="utf-8") for name in names]
    return "\n".join(['(() => {\n"use strict";', *parts, "})();\n"])


def policy(allowed: str) -> str:
    """The content security policy: nothing is loaded; styles of the file itself, and the one script by its hash."""
    digest = base64.b64encode(hashlib.sha256(allowed.encode()).digest()).decode()
    sources = f"img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


def page_script(text: str | None = None) -> dict[str, Any]:
    """What base.html takes of a script (that of every page unless it is given): itself and its policy."""
    chosen = script() if text is None else text
    return {"policy": policy(chosen), "script": Markup(chosen)}  # noqa: S704 - files of ours


def words() -> Mapping[str, str]:
    """The words of the script of every page; `{column}` is filled by it."""
    return {
        "sort": localized("page_view.sort", column="{column}"),
        "first_column": localized("page_view.first_column"),
    }


def json_block(content: Any) -> Markup:
    """JSON for a script element: no text within can end the element or begin another."""
    return htmlsafe_json_dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
