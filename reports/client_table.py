"""What the client may have added to each stage's latencies, as a table."""

from collections.abc import Mapping
from typing import Any

from harness.analysis.client_error import KERNEL
from harness.messages import localized
from harness.results.folder import ResultFiles
from harness.results.stage_names import in_column
from harness.units import format_duration, format_share
from reports.tables import Cell
from reports.texts import elsewhere

_NONE = Cell("–")


def heads() -> list[str]:
    """The columns of `client_table`."""
    return [
        localized("page.stages.stage"),
        localized("page.client.stamps"),
        localized("page.client.first_exact"),
        localized("page.client.blurred"),
        localized("page.client.read_late"),
        "TTFT mean",
        "TPOT mean",
        "ITL p99",
    ]


def client_table(result: ResultFiles) -> list[list[Cell]]:
    """A row a stage whose client knew how late it was; empty where there is none."""
    return [_row(stage) for stage in result.stages if (stage.get("client_error") or {}).get("clock") == KERNEL]


def _row(stage: Mapping[str, Any]) -> list[Cell]:
    error = stage["client_error"]
    late = (error.get("late_p50_s"), error.get("late_p99_s"))
    return [
        Cell(elsewhere(in_column(stage.get("index") or 0, str(stage.get("label") or "")))),
        Cell(localized("page.client.kernel")),
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
