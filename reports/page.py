"""The page of a result folder: one HTML file with all its figures.

Everything stands in the file: styles, figures, a few lines of script. A content security policy
in its head forbids every request and every other script, so that no text of a scenario, model or
server can ever become more than text.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from harness.messages import localized
from harness.results import store
from harness.results.folder import ResultFiles, left_out
from harness.results.store import in_virtual_time
from harness.units import format_duration
from reports import (
    classes,
    curves,
    decision,
    distributions,
    engines,
    facts,
    frames,
    headline,
    server_side,
    speculation,
    stalling,
    tables,
    timelines,
)
from reports.assets import json_block, live_script, live_styles, page_script, words
from reports.data import Data
from reports.figures.style import drawing
from reports.glossary import TERMS
from reports.live_data import run_data
from reports.loads import title_of
from reports.palette import stage_variables
from reports.rows import rows_of
from reports.svg import Drawing
from reports.tables import breakable, column_kinds
from reports.texts import is_hash, markup, paragraph, sentence, severity_name, write_text

PAGE = "report.html"
_LEAD = (
    "page.distributions.lead",
    "page.distributions.both_views",
    "page.distributions.bars",
)  # the second of open loop
_TEMPLATES = Path(__file__).parent / "templates"


def write(data: Data) -> Path:
    """Draw report.html into the result folder; its path."""
    return write_text(data.result.folder / PAGE, render(data))


def render(data: Data) -> str:
    """The page of a result as HTML."""
    return environment().get_template("page.html").render(_context(data))


@cache
def environment() -> jinja2.Environment:
    """The environment of the templates: every value is escaped, and a missing one is an error."""
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,  # everywhere, whatever a template is called
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["duration"] = format_duration
    jinja.filters["column_kinds"] = column_kinds
    jinja.filters["breakable"] = breakable
    jinja.filters["severity"] = severity_name
    jinja.filters["sentence"] = sentence
    jinja.filters["is_hash"] = is_hash
    jinja.globals["t"] = markup  # a sentence as HTML
    jinja.globals["words"] = lambda: json_block(words())
    jinja.globals["attr"] = localized  # a sentence as plain text, for an attribute
    return jinja


def _context(data: Data) -> dict[str, Any]:
    result = data.result
    stage, why = headline.key_stage(result)
    count = int(data.places["stage"].max()) + 1 if len(data.places) else 1
    stalled = stalling.stage_pauses(data)
    marks = stalling.marks(stalled)
    gallery = draw_all(data, marks)
    return {
        "result": result,
        "run": _whole(result.run),
        "simulated": result.simulated,
        "virtual": in_virtual_time(result.run),
        "started": moment(str(result.run.get("started_utc") or "")),
        **_live(data, gallery, stalled),
        "colours": {"light": stage_variables(count, dark=False), "dark": stage_variables(count, dark=True)},
        "terms": TERMS,
        "stage_names": data.names,
        "many_stages": len(data.names) > 1,
        "is_open": data.is_open,
        "badges": headline.badges(result),
        "answer": headline.answer(result),
        "warnings": headline.warnings(result),
        "left_out": "" if (without := left_out(result.folder)) is None else markup(without),
        "cards": headline.cards(stage, headline.grew(result)) if stage else (),
        "card_heading": _card_heading(stage, why) if stage else "",
        "gallery": gallery,
        **_pauses(data, stalled),
        "class_tables": classes.class_tables(result),
        "cost_table": classes.cost_table(result),
        "engine_tables": engines.engine_tables(data),
        "engine_key": engines.engine_key(data),
        "engine_lead": engines.lead(data),
        "spreads_lead": paragraph(map(localized, _LEAD if data.is_open else (_LEAD[0], _LEAD[-1]))),
        "decision": decision.decision_view(data),
        "overview": tables.overview(result),
        "stages": tables.stage_tables(result),
        "length_heads": distributions.length_heads(data) if result.summary.get("by_length") else (),
        "length_rows": distributions.length_rows(data),
        "prefix_heads": server_side.prefix_heads(),
        "prefix_rows": server_side.prefix_rows(result.stages),
        "split_heads": server_side.split_heads(),
        "split_rows": server_side.split_rows(result.stages),
        "speculation_heads": speculation.heads(),
        "speculation_rows": speculation.rows(result.stages),
        "errors": frames.error_frame(result).to_dict("records"),
        **_reproduction(result),
    }


def _live(data: Data, gallery: "Gallery", blocks: Sequence[stalling.StagePauses]) -> dict[str, Any]:
    """The script of the page, and the data of its panels where something was measured over time."""
    if gallery.load is None:
        return {"live": None, "live_styles": "", **page_script()}
    drawings = (
        gallery.load,
        gallery.lanes,
        gallery.heat,
        gallery.client,
        gallery.engines,
        *gallery.spreads,
        *gallery.shapes,
    )
    spans = {"warm": list(rows_of(timelines.warm_frame(data), "start_s", "end_s"))}
    spans |= {"stalls": stalling.marks(blocks), "pauses": stalling.pause_spans(blocks)}
    content = json_block(run_data(data, drawings, spans))
    return {"live": content, "live_styles": live_styles(), **page_script(live_script())}


def _card_heading(stage: Mapping[str, Any], reason: str) -> str:
    """The heading of the cards: their stage, and the reason why it is that one."""
    name = title_of(stage)
    return (
        localized("page.cards.at_because", stage=name, reason=reason)
        if reason
        else localized("page.cards.at", stage=name)
    )


def _whole(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run.json with every key that the page names, as an earlier version may have left some out."""
    parts = {"engine": {"model": "", "kind": ""}, "client": {"version": ""}}
    known = {name: absent | run[name] for name, absent in parts.items() if run.get(name)}
    return {"engine": None, "client": None, "started_utc": "", "rerun": "", "scenario_text": "", **run, **known}


def _pauses(data: Data, stalled: Sequence[stalling.StagePauses]) -> dict[str, Any]:
    return {
        "pauses": stalling.summary(stalled),
        "stall_heads": stalling.heads(),
        "stalls": stalling.stall_rows(data, stalled),
        "interference": stalling.interference_rows(data, stalled),
        "single_heads": stalling.single_heads(),
        "single_gaps": stalling.single_rows(data, stalled),
        "peer_heads": tables.peer_heads(),
        "peers": tables.peer_tables(data),
    }


def _reproduction(result: ResultFiles) -> dict[str, Any]:
    engine = result.run.get("engine") or {}
    return {
        "tokens": facts.token_rows(result),
        "counted_by": facts.counted_by(result),
        "flags": facts.flag_rows(result),
        "process_flags": facts.process_flags(result),
        "process_commands": facts.process_commands(result),
        "command": " ".join(map(str, engine.get("command") or ())),
        "environment": facts.environment_rows(result),
        "run_rows": facts.run_rows(result),
        "client_rows": facts.client_rows(result),
        "client_heads": tables.client_heads(),
        "client_errors": tables.client_table(result),
        "summary_missing": not result.summary,
        "files": _files(result.folder),
    }


def moment(iso: str) -> str:
    """`2026-11-22 17:30 UTC` of an ISO time."""
    day, _, rest = iso.partition("T")
    return f"{day} {rest[:5]} UTC" if rest else iso


def _files(place: Path) -> list[str]:
    known = (store.RUN, store.REQUESTS, store.EVENTS, store.SAMPLES, store.SUMMARY, store.TIMELINE)
    logs = sorted(log.name for log in place.glob("engine*.log"))
    return [*(name for name in known if (place / name).exists()), *logs]


@dataclass(frozen=True, slots=True)
class Gallery:
    """All figures of a page; None or empty where there is nothing to draw."""

    hero: Drawing | None = None
    curves: Sequence[Drawing] = ()
    spreads: Sequence[Drawing] = ()
    shapes: Sequence[Drawing] = ()
    acceptance: Drawing | None = None
    load: Drawing | None = None
    heat: Drawing | None = None
    lanes: Drawing | None = None
    client: Drawing | None = None
    engines: Drawing | None = None


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Figures are webs of references; looking for rings in them while they grow takes a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def draw_all(data: Data, stalls: Sequence[tuple[float, float]] = ()) -> Gallery:
    """Every figure that the files have something for; `stalls` are marked in those over time."""
    if not len(data.places):
        return Gallery()
    with drawing(), _without_collecting():
        return Gallery(
            hero=curves.hero(data),
            curves=tuple(curves.further_curves(data)),
            spreads=tuple(distributions.spreads(data)),
            shapes=tuple(distributions.shapes(data)),
            acceptance=speculation.by_position(data),
            load=timelines.load(data, stalls),
            heat=timelines.heat(data, stalls),
            lanes=timelines.lanes(data, stalls),
            client=timelines.client(data),
            engines=engines.over_time_drawing(data),
        )
