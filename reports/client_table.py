"""What the client may have added to each stage's latencies, as a table."""

from collections.abc import Mapping
from typing import Any

from harness.analysis.client_error import KERNEL
from harness.results.folder import ResultFiles
from harness.results.stage_names import in_column
from harness.units import format_duration, format_share
from reports.tables import Cell

HEADS = (
    "Stage",
    "Arrivals stamped by",
    "First tokens exact",
    "Events blurred",
    "Read late, p50 / p99",
    "TTFT mean",
    "TPOT mean",
    "ITL p99",
)
_NONE = Cell("–")


def client_table(result: ResultFiles) -> list[list[Cell]]:
    """A row a stage whose client knew how late it was; empty where there is none."""
    return [_row(stage) for stage in result.stages if (stage.get("client_error") or {}).get("clock") == KERNEL]


def _row(stage: Mapping[str, Any]) -> list[Cell]:
    error = stage["client_error"]
    late = (error.get("late_p50_s"), error.get("late_p99_s"))
    return [
        Cell(in_column(stage.get("index") or 0, str(stage.get("label") or "")), foreign=True),
        Cell("kernel"),
        Cell(format_share(error.get("first_exact"))),
        Cell(format_share(error.get("blurred_share"))),
        _NONE if None in late else Cell(" / ".join(map(format_duration, late))),
        *(_with_error(stage, *which) for which in (("ttft", "mean"), ("tpot", "mean"), ("itl", "p99"))),
    ]


def _with_error(stage: Mapping[str, Any], metric: str, statistic: str) -> Cell:
    value = (stage.get(metric) or {}).get(statistic)
    bound = ((stage["client_error"].get("bounds") or {}).get(metric) or {}).get(statistic)
    if value is None or bound is None:
        return _NONE
    return Cell(f"{format_duration(value)} ± {format_duration(bound)}")
