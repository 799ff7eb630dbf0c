"""vllm-bench.json: what `vllm bench serve --save-result` would have written of each stage, for tools that read it.

One JSON object a stage, a line each, as its `--append-result` separates them. The words mean
what they mean there: all measured requests of the stage from the first sent to the last
answered (no window, goodput too), ttft and latency from sent, tpot = (latency - ttft) / (output tokens - 1),
itl the gap between events; statistics in milliseconds, lists in seconds. A statistic of nothing
is null.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.metrics import latencies
from harness.analysis.slo import good_requests, objectives
from harness.analysis.token_gaps import Gaps, streams, token_rates
from harness.results.request_table import COLUMNS, COMPLETED, MEASURED, MISSING, events_from, requests_from_columns
from harness.units import NS_PER_S
from reports.data import Data
from reports.texts import write_text

VLLM_BENCH = "vllm-bench.json"
Floats = NDArray[np.float64]

_BACKENDS = {"completions": "openai", "chat": "openai-chat"}
_PERCENTILES = (90, 95, 99)
_MS_PER_S = 1000.0


def write(data: Data) -> Path:
    """Write vllm-bench.json into the result folder; its path."""
    return write_text(data.result.folder / VLLM_BENCH, text(data))


def text(data: Data) -> str:
    """One object a stage and repeat, each on a line of its own."""
    lines = [json.dumps(stage_object(data, place), allow_nan=False) for place in data.places["place"].tolist()]
    return "".join(f"{line}\n" for line in lines)


def stage_object(data: Data, place: int) -> dict[str, Any]:
    """One stage in the fields of `vllm bench serve --save-result`."""
    chosen = (data.latencies["place"] == place) & (data.latencies["phase"] == MEASURED)
    completed = chosen & (data.latencies["status"] == COMPLETED)
    done = data.latencies[completed]
    rows = data.result.requests[completed]
    span = data.places.iloc[place]
    output = rows["output_tokens"].to_numpy()
    return {
        **_head(data, int(span["stage"]), int(span["repeat"]), len(data.latencies[chosen])),
        **_totals(data, place, chosen, rows),
        "latencies": _list(done["e2e"]),
        "queue_times": _list(done["sent_s"] - done["due_s"]),
        **_statistics("ttft", done["ttft"].to_numpy()),
        **_statistics("tpot", _tpot(done, output)),
        **_gap_statistics(_gaps(data, completed)),
        **_statistics("e2el", done["e2e"].to_numpy()),
    }


def _head(data: Data, stage: int, repeat: int, requested: int) -> dict[str, Any]:
    run = data.result.run
    loads = run.get("stages") or ()
    load: Mapping[str, Any] = loads[stage] if stage < len(loads) else {}
    model = (run.get("engine") or {}).get("model")
    backend = _BACKENDS.get(str(run.get("endpoint")), "openai")
    return {
        "date": _date(str(run.get("started_utc") or "")),
        "endpoint_type": backend,
        "backend": backend,
        "label": str(data.places.loc[data.places["stage"] == stage, "label"].iloc[0]),
        "model_id": model,
        "tokenizer_id": model,
        "num_prompts": requested,
        "simulated": data.result.simulated,
        "stage": stage,
        "repeat": repeat,
        "request_rate": float(load["rate"]) if "rate" in load else "inf",
        "burstiness": float(load.get("burstiness", 1.0)),
        "max_concurrency": load.get("concurrency", load.get("max_concurrency")),
    }


def _date(iso: str) -> str:
    """`20261122-173000` of an ISO time."""
    digits = "".join(sign for sign in iso[:19] if sign.isdigit())
    return f"{digits[:8]}-{digits[8:]}"


def _totals(data: Data, place: int, chosen: pd.Series, rows: pd.DataFrame) -> dict[str, Any]:
    own = data.places.iloc[place]
    key = int(own["stage"]), int(own["repeat"])
    stage: Mapping[str, Any] = next((s for s in data.result.stages if (s.get("index"), s.get("repeat", 0)) == key), {})
    times = data.latencies[chosen & data.latencies["sent_s"].notna()]
    begun, over = times["sent_s"].min(), times["done_s"].max()
    duration_s = float(over - begun) if len(times) and over > begun else 0.0
    known = np.where(rows["input_tokens"] != MISSING, rows["input_tokens"], rows["input_asked"].clip(lower=0))
    inputs, outputs = int(known.sum()), int(rows["output_tokens"].sum())
    return {
        "duration": duration_s,
        "completed": len(rows),
        "failed": int(chosen.sum()) - len(rows),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": _per(len(rows), duration_s),
        "request_goodput": _per(_good(data, chosen), duration_s) if stage.get("slo") and data.streams else None,
        "output_throughput": _per(outputs, duration_s),
        "total_token_throughput": _per(inputs + outputs, duration_s),
        "max_output_tokens_per_s": _most_tokens(data, begun, duration_s),
        "max_concurrent_requests": _most_requests(times, begun),
        "rtfx": 0.0,
    }


def _good(data: Data, chosen: pd.Series) -> int:
    """The number of requests that keep every limit of the slo, times from sent as there."""
    rows, limits = np.flatnonzero(chosen.to_numpy()), objectives(data.result.run.get("slo") or {}, open_loop=False)
    columns = data.result.requests.iloc[rows]
    requests = requests_from_columns({name: columns[name].to_numpy() for name in COLUMNS})
    events = events_from([([], [])] * len(rows)) if data.events is None else data.events.take(rows)
    kept = good_requests(limits, requests, events, latencies(requests, stream=True))
    return int((kept & (requests.status == COMPLETED)).sum())


def _per(count: int, duration_s: float) -> float:
    return count / duration_s if duration_s > 0 else 0.0


def _most_tokens(data: Data, begun_s: float, duration_s: float) -> float:
    """The most tokens within a whole second, counted from the first request."""
    if data.events is None or not duration_s > 0:
        return 0.0
    seconds = math.ceil(duration_s)
    start_ns = round(begun_s * NS_PER_S)
    return float(token_rates(data.events, start_ns, start_ns + seconds * NS_PER_S, seconds).max())


def _most_requests(times: pd.DataFrame, begun_s: float) -> int:
    """The most requests that touch one second, counted from the first request."""
    known = times.dropna(subset=["done_s"])
    if not len(known):
        return 0
    first, last = (((known[name] - begun_s) // 1).astype(int).to_numpy() for name in ("sent_s", "done_s"))
    seconds = np.arange(max(0, last.max()) + 1)
    begun = np.searchsorted(np.sort(first), seconds, side="right")
    over = np.searchsorted(np.sort(last), seconds, side="left")
    return int((begun - over).max())


def _tpot(done: pd.DataFrame, output: NDArray[np.int64]) -> Floats:
    several = output > 1
    return (done["e2e"] - done["ttft"]).to_numpy()[several] / (output[several] - 1)


def _gaps(data: Data, completed: pd.Series) -> Gaps | None:
    return streams(data.events, completed.to_numpy()).chunk_gap if data.events is not None else None


def _statistics(name: str, values: Floats) -> dict[str, float | None]:
    known = values[np.isfinite(values)] * _MS_PER_S
    if not len(known):
        return dict.fromkeys(_fields(name))
    statistics = [known.mean(), np.median(known), known.std(), *np.percentile(known, _PERCENTILES)]
    return {field: float(value) for field, value in zip(_fields(name), statistics, strict=True)}


def _gap_statistics(gaps: Gaps | None) -> dict[str, float | None]:
    if gaps is None or not gaps.short.n:
        return dict.fromkeys(_fields("itl"))
    short = gaps.short
    of_all = None if short.std is None else short.std * math.sqrt((short.n - 1) / short.n)  # theirs divides by n
    values = [short.mean, short.p50, of_all, *(gaps.percentile(percent) for percent in _PERCENTILES)]
    return {
        field: None if value is None else value * _MS_PER_S for field, value in zip(_fields("itl"), values, strict=True)
    }


def _fields(name: str) -> list[str]:
    return [f"{kind}_{name}_ms" for kind in ("mean", "median", "std", *(f"p{percent}" for percent in _PERCENTILES))]


def _list(values: pd.Series) -> list[float]:
    """Seconds to the microsecond, unknown ones left out."""
    rounded: list[float] = np.round(values[np.isfinite(values)].to_numpy(), 6).tolist()
    return rounded
