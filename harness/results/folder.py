"""The files of a result folder as values and data frames, of a whole run or of one that was killed.

What is missing (a run that was stopped before its summary, no samples) is
empty here, so that a page can still be drawn from what there is.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.messages import Message
from harness.results import store, table_files
from harness.results.request_table import LATER_COLUMNS, MEASURED, MISSING, TEXT_COLUMNS
from harness.results.study import StudyFiles
from harness.results.table_files import Kinds, read_table


@dataclass(frozen=True, slots=True)
class ResultFiles:
    """The files of a result folder as values.

    `requests` has the columns of `request_table.COLUMNS`, integers int64 with `MISSING`, texts as
    categories; `samples` is in long form. `summary` is {} where a run was killed before it
    was written; `events` is the path of events.parquet or None.
    """

    folder: Path
    run: Mapping[str, Any]
    summary: Mapping[str, Any]
    requests: pd.DataFrame
    samples: pd.DataFrame
    timeline: pd.DataFrame
    events: Path | None

    @property
    def simulated(self) -> bool:
        """Whether a simulator answered, by run.json or by summary.json."""
        engine = self.run.get("engine") or {}
        return bool(self.summary.get("simulated") or engine.get("simulated") or engine.get("kind") == "simulator")

    @property
    def stages(self) -> Sequence[Mapping[str, Any]]:
        """The stages of the summary, in the order they ran."""
        return self.summary.get("stages") or ()


def read_files(folder: Path) -> ResultFiles:
    """Everything of a result folder but the events, which are read in blocks.

    Raises:
        ResultError: where the folder has no run.json of a known format, or a file is broken.
    """
    run = _sayable(store.read_run(folder))
    requests = _table(folder / store.REQUESTS, table_files.REQUEST_KINDS)
    events = folder / store.EVENTS
    return ResultFiles(
        folder=folder,
        run=run,
        summary=_json(folder, store.SUMMARY, {}),
        requests=requests,
        samples=_table(folder / store.SAMPLES, table_files.SAMPLE_KINDS),
        timeline=_timeline(_json(folder, store.TIMELINE, []), requests),
        events=events if events.exists() and len(requests) else None,
    )


def left_out(folder: Path) -> Message | None:
    """Which sections a page of a load is without, as a file of records is not there; None where all are."""
    if "kernels" in store.read_run(folder):
        return None
    for name, code in ((store.REQUESTS, "results.no_requests"), (store.EVENTS, "results.no_events")):
        if not (folder / name).exists():
            return Message(code, {"file": name})
    return None


def _json(folder: Path, name: str, missing: Any) -> Any:
    return _sayable(store.read_json(folder, name)) if (folder / name).exists() else missing


def _sayable(value: Any) -> Any:
    """The value with a question mark for what UTF-8 has no place for: half a surrogate pair, escaped in JSON."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _table(path: Path, columns: Kinds) -> pd.DataFrame:
    if not path.exists():
        return frame_of({name: _empty(name) for name in columns})
    table = read_table(path, columns, frozenset(LATER_COLUMNS))  # results of before have not these
    unknown = np.full(table.num_rows, MISSING, dtype=np.int64)
    known = set(table.column_names)
    return frame_of({name: _values(table[name]) if name in known else unknown for name in columns})


def frame_of(columns: Mapping[str, Any]) -> pd.DataFrame:
    """A frame of these columns, which are not copied."""
    frame: pd.DataFrame = pd.DataFrame(dict(columns), copy=False)
    return frame


def _empty(name: str) -> Any:
    if name in TEXT_COLUMNS or name in ("source", "name"):
        return pd.Categorical([], categories=[])
    return np.zeros(0, dtype=np.float64 if name == "value" else np.int64)


def _values(column: pa.ChunkedArray) -> Any:
    """Numbers as numpy arrays, texts as categories: a million equal words are one word."""
    kind = column.type
    if pa.types.is_integer(kind):
        return pc.fill_null(column, MISSING).to_numpy()
    if pa.types.is_floating(kind):
        return column.to_numpy()
    coded = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
    whole = coded.unify_dictionaries().combine_chunks()
    whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    codes = pc.fill_null(whole.indices, -1).to_numpy(zero_copy_only=False)
    return pd.Categorical.from_codes(codes, categories=pd.Index(whole.dictionary.to_pylist(), dtype=object))


def _timeline(measured: Sequence[Mapping[str, int]], requests: pd.DataFrame) -> pd.DataFrame:
    """Columns stage, repeat, start_ns, stop_ns, end_ns; from the records where a killed run left none."""
    columns = ["stage", "repeat", "start_ns", "stop_ns", "end_ns"]
    if measured or not len(requests):
        return frame_of({name: [row[name] for row in measured] for name in columns})
    sent = requests[(requests["sent_ns"] != MISSING) & (requests["phase"] == MEASURED)]
    last_ns = sent[["sent_ns", "last_ns", "done_ns"]].max(axis=1)
    grouped = sent.assign(end_ns=last_ns).groupby(["stage", "repeat"], sort=True)
    spans = grouped.agg(start_ns=("due_ns", "min"), stop_ns=("sent_ns", "max"), end_ns=("end_ns", "max"))
    ordered: pd.DataFrame = spans.reset_index()[columns]
    return ordered


def request_frame(folder: Path) -> pd.DataFrame:
    """requests.parquet as a frame: whole numbers as Int64, <NA> where there is no value; texts as categories.

    Raises:
        ResultError: where it is missing or is not of this form.
    """
    table = read_table(folder / store.REQUESTS, table_files.REQUEST_KINDS, frozenset(LATER_COLUMNS))
    unknown = np.full(table.num_rows, MISSING, dtype=np.int64)
    known = set(table.column_names)
    columns = {name: _values(table[name]) if name in known else unknown for name in table_files.REQUEST_KINDS}
    return frame_of({name: values if name in TEXT_COLUMNS else _nullable(values) for name, values in columns.items()})


def _nullable(values: NDArray[np.int64]) -> Any:
    return pd.arrays.IntegerArray(values, values == MISSING)


def sample_frame(folder: Path) -> pd.DataFrame:
    """samples.parquet as a frame; empty where nothing was watched."""
    return _table(folder / store.SAMPLES, table_files.SAMPLE_KINDS)


def kernel_frame(folder: Path) -> pd.DataFrame:
    """kernels.parquet as a frame.

    Raises:
        ResultError: where it is missing or is not of this form.
    """
    return frame_of(table_files.read_kernel_samples(folder))


def trial_frame(study: StudyFiles) -> pd.DataFrame:
    """The trials of a study, a row each: number, status, minutes, then parameters and metrics by name."""
    rows = [
        {
            "number": trial.get("number"),
            "status": trial.get("status"),
            "minutes": sum(float(value or 0) for value in (trial.get("minutes") or {}).values()),
            **(trial.get("point") or {}),
            **(trial.get("values") or {}),
        }
        for trial in study.trials
    ]
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def number(value: Any) -> float:
    """A number of a JSON file as a float; nan where it is absent."""
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable else math.nan
