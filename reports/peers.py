"""The table of what other tools would have printed, from summary.json (see harness.analysis.peers)."""

from collections.abc import Mapping
from typing import Any

from harness.messages import localized
from harness.units import format_duration, format_rate
from reports.data import Data
from reports.loads import load_text, stage_title
from reports.tables import Cell


def heads() -> list[str]:
    """The columns of `rows`."""
    return [
        localized("page.tools.tool"),
        localized("page.tools.name"),
        localized("page.tools.mean"),
        "p99",
        localized("page.tools.definition"),
    ]


def row(entry: Mapping[str, Any]) -> list[Cell]:
    """One number of one tool: of a latency mean and p99, of its throughput the rate; and the definition."""
    tool, definition = Cell(str(entry["tool"])), Cell(localized(str(entry["definition"])))
    if "output_token_rate" in entry:
        rate = format_rate(entry["output_token_rate"], "tokens/s")
        return [tool, Cell(localized("page.tools.output_throughput")), Cell(rate), Cell(""), definition]
    times = [Cell(format_duration(entry[name])) for name in ("mean", "p99")]
    return [tool, Cell(str(entry["name"])), *times, definition]


def tables(data: Data) -> list[tuple[str, list[list[Cell]]]]:
    """For each stage its name and rows; a repeated stage by its first repeat."""
    first = {stage.get("index", 0): stage for stage in reversed(data.result.stages)}
    stages = [first[index] for index in sorted(first) if first[index].get("peers")]
    return [
        (stage_title(stage["index"], load_text(stage)), [row(entry) for entry in stage["peers"]]) for stage in stages
    ]
