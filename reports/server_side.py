"""What the server says of itself on a run's page: hits of its prefix caches, and its own split of the first token."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.messages import localized
from harness.units import format_count, format_duration, format_share
from reports.loads import column_title, load_text
from reports.tables import Cell

_NONE = Cell("–")
_PREFIX_HEADS = ("page.stages.stage", "page.server.theory", "page.server.measured", "page.server.target")
_SPLIT_HEADS = ("page.stages.stage", "page.server.queue", "page.server.prefill", "page.server.outside", "page.server.n")
_PARTS = ("queue", "prefill", "outside")
_NOTHING = 0.0005  # of the tokens: chance, of prompts that share nothing


def prefix_heads() -> list[str]:
    """The heads of `prefix_rows`."""
    return [localized(code) for code in _PREFIX_HEADS]


def prefix_rows(stages: Sequence[Mapping[str, Any]]) -> list[list[Cell]]:
    """A row for each stage whose prompts share anything and, where there are several, for each engine; else no rows."""
    return [row for stage in stages if _shares(stage.get("prefix") or {}) for row in _stage_rows(stage)]


def _shares(hits: Mapping[str, Any]) -> bool:
    rates = (hits.get("theoretical_hit_rate"), hits.get("measured_hit_rate"), hits.get("target"))
    return any(rate is not None and rate > _NOTHING for rate in rates)


def _stage_rows(stage: Mapping[str, Any]) -> Iterator[list[Cell]]:
    hits = stage["prefix"]
    yield [_name(stage), _share(hits.get("theoretical_hit_rate")), _share(hits.get("measured_hit_rate")), _target(hits)]
    for name, rate in (hits.get("engines") or {}).items():
        title = column_title(stage.get("index") or 0, load_text(stage))
        yield [Cell(title, localized("page.speculation.engine", name=name)), _NONE, _share(rate), _NONE]


def _name(stage: Mapping[str, Any]) -> Cell:
    repeat = localized("page.stages.repeat", number=stage["repeat"] + 1) if stage.get("repeat") else ""
    return Cell(column_title(stage.get("index") or 0, load_text(stage)), repeat)


def _share(rate: float | None) -> Cell:
    return _NONE if rate is None else Cell(format_share(rate))


def _target(hits: Mapping[str, Any]) -> Cell:
    """What was asked for, and whether it was held; the requests that primed it below."""
    if hits.get("target") is None:
        return _NONE
    held = hits.get("held")
    code = "page.server.not_known" if held is None else "page.server.held" if held else "page.server.missed"
    text = f"{format_share(hits['target'])} {localized(code)}"
    tone = "plain" if held is None else "good" if held else "bad"
    return Cell(text, localized("page.server.primed", primed=hits.get("primed") or 0), tone)


def split_heads() -> list[str]:
    """The heads of `split_rows`."""
    return [localized(code) for code in _SPLIT_HEADS]


def split_rows(stages: Sequence[Mapping[str, Any]]) -> list[list[Cell]]:
    """A row for each stage of whose requests the server told its own times; medians, and the 99th percentiles below."""
    return [
        [_name(stage), *map(_times, _parts(stage)), Cell(format_count(stage["server_split"]["n"]))]
        for stage in stages
        if stage.get("server_split")
    ]


def _parts(stage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [stage["server_split"].get(part) or {} for part in _PARTS]


def _times(values: Mapping[str, Any]) -> Cell:
    if values.get("p50") is None:
        return _NONE
    tail = values.get("p99")
    return Cell(format_duration(values["p50"]), "" if tail is None else f"p99 {format_duration(tail)}")
