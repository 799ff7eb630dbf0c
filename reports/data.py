"""Everything that the figures and tables of one result are drawn from, read and joined once."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from harness.analysis.slo import objectives
from harness.results import table_files
from harness.results.folder import ResultFiles
from harness.results.request_table import Events
from reports import frames
from reports.figures.curve import Limit
from reports.figures.style import Head
from reports.loads import column_title


@dataclass(frozen=True, slots=True)
class Data:
    """Everything the figures of one result are drawn from, read and joined once."""

    result: ResultFiles
    places: pd.DataFrame
    metrics: pd.DataFrame
    latencies: pd.DataFrame
    events: Events | None

    @property
    def is_open(self) -> bool:
        """Whether any stage was open loop."""
        return bool(self.places["is_open"].any())

    @property
    def streams(self) -> bool:
        """Whether answers came token by token."""
        return bool(self.result.run.get("stream", True))

    @property
    def names(self) -> Mapping[int, str]:
        """Short names of the stages."""
        return dict(zip(self.places["stage"].tolist(), self.places["short"].tolist(), strict=True))

    @property
    def titles(self) -> Mapping[int, str]:
        """Names of the stages as they stand in a column of a table."""
        rows = zip(self.places["stage"].tolist(), self.places["load"].tolist(), strict=True)
        return {stage: column_title(stage, load) for stage, load in rows}

    def head(self, title: str, subtitle: str = "") -> Head:
        """A figure's head, which says where a simulator answered."""
        return Head(title, subtitle, simulated=self.result.simulated)


def gather(result: ResultFiles) -> Data:
    """Read the events and join the frames of a result."""
    places = frames.place_frame(result)
    events = table_files.read_events(result.folder) if result.events is not None else None
    return Data(result, places, frames.metric_frame(result), frames.latency_frame(result, places), events)


def limits_of(data: Data) -> list[Limit]:
    """The scenario's limits, each on the view it is held against: from due in open loop."""
    limits = objectives(data.result.run.get("slo") or {}, open_loop=data.is_open)
    return [Limit(objective.metric, objective.statistic, float(objective.limit_s)) for objective in limits]


def main_metric(data: Data) -> str:
    """The latency that a page shows over time: to the first token where answers stream, from due in open loop."""
    return ("ttft" if data.streams else "e2e") + ("_user" if data.is_open else "")
