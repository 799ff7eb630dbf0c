"""What stands in the tables of the page, as text with its units chosen once a row or column?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.steady_state import is_open
from harness.results import stage_names
from harness.results.folder import ResultFiles, number
from harness.results.stage_names import in_column
from harness.units import (
    format_about,
    format_bytes,
    format_count,
    format_duration,
    format_error,
    format_rate,
    format_share,
    significant,
    time_scale,
)
from reports.glossary import METRIC_ORDER, name_of
from reports.verdict import grew, held_value, judged_statistic, left_out

_SHOWN = ("mean", "p50", "p90", "p95", "p99")
_HASHES = ("scenario_sha256", "payload_sha256", "schedule_sha256")


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, a quieter line under it, a tone (good, bad or plain), and the term that it is."""

    text: str
    below: str = ""
    tone: str = "plain"
    term: str = ""
    foreign: bool = False  # a name or value from outside, which no language changes
    quoted: bool = False  # so is the line under it


@dataclass(frozen=True, slots=True)
class Column:
    """A column's head: the term it shows, its words, its unit; `parts` where it spans several columns."""

    term: str
    label: str
    unit: str = ""
    parts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Heads and rows; the first cell of a row is its own head."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    @property
    def two_deep(self) -> bool:
        """Whether heads stand in two rows."""
        return any(column.parts for column in self.columns)


@dataclass(frozen=True, slots=True)
class StageTable:
    """Everything the summary says of one stage."""

    index: int
    label: str
    window: str
    steady: bool | None
    counts: Sequence[tuple[str, str]]
    metrics: Table
    limits: Sequence[Sequence[Cell]]
    withheld: bool
    left_out: str = ""


def overview(result: ResultFiles) -> Table:
    """A row a stage: load asked and reached, counts, and the latencies that matter most."""
    stages = result.stages
    by_clock = any(is_open(str((stage.get("load") or {}).get("kind"))) for stage in stages)
    metrics = ("ttft_user", "tpot", "e2e_user") if by_clock else ("ttft", "tpot", "e2e")
    shown = {metric: ("p50", judged_statistic(result, metric)) for metric in metrics}
    scales = {metric: _scale(stages, metric) for metric in metrics}
    columns = [
        Column("", "Stage"),
        *([Column("offered_rate", "Offered", "req/s")] if by_clock else []),
        Column("request_rate", "Rate", "req/s"),
        Column("output_token_rate", "Output", "tokens/s"),
        Column("concurrency", "In flight", "mean"),
        Column("", "Answered"),
        Column("", "Failed"),
        *(Column(metric, name_of(metric), scales[metric][1], shown[metric]) for metric in metrics),
        Column("slo", "Limits"),
    ]
    picked = [(metric, name, scales[metric][0]) for metric in metrics for name in shown[metric]]
    growing = grew(result)
    return Table(columns, [_overview_row(stage, picked, growing, by_clock=by_clock) for stage in stages])


def _overview_row(
    stage: Mapping[str, Any], picked: Sequence[tuple[str, str, float]], growing: set[int], *, by_clock: bool
) -> list[Cell]:
    requests = stage.get("requests") or {}
    failed = requests.get("failed") or 0
    unanswered = sum(requests.get(name) or 0 for name in ("cancelled", "never_sent"))
    return [
        Cell(in_column(stage.get("index") or 0, str(stage.get("label") or "")), _repeat(stage)),
        *([Cell(significant(number(stage.get("offered_rate"))))] if by_clock else []),
        Cell(significant(number(stage.get("request_rate")))),
        Cell(significant(number(stage.get("output_token_rate")))),
        Cell(significant(number((stage.get("concurrency") or {}).get("mean")))),
        Cell(format_count(requests.get("completed")), f"{format_count(unanswered)} cut short" if unanswered else ""),
        Cell(format_count(failed), "left out of latencies" if failed else "", tone="bad" if failed else "plain"),
        *(_statistic(stage.get(metric) or {}, name, size, short=True) for metric, name, size in picked),
        _limits_cell(stage, growing),
    ]


def _repeat(stage: Mapping[str, Any]) -> str:
    return f"repeat {stage['repeat'] + 1}" if stage.get("repeat") else ""


def _limits_cell(stage: Mapping[str, Any], growing: set[int]) -> Cell:
    queue = "the queue grew" if stage.get("index") in growing else ""
    if not stage.get("slo"):
        return Cell("–", queue)
    missed = [key for key, held in stage["slo"].items() if held.get("met") is False]
    if missed:
        return Cell("missed", ", ".join(missed), "bad")
    unknown = any(held.get("met") is None for held in stage["slo"].values())
    return Cell("unknown" if unknown else "met", queue, "plain" if unknown or queue else "good")


_VERDICTS = {True: Cell("met", tone="good"), False: Cell("missed", tone="bad"), None: Cell("unknown")}


def _scale(stages: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, str]:
    """The unit (size in seconds, name) of a metric over all stages."""
    found = [number((stage.get(metric) or {}).get("p99")) for stage in stages]
    return time_scale(max((value for value in found if value == value), default=0.0))  # noqa: PLR0124 - nan is unequal to itself


def stage_tables(result: ResultFiles) -> list[StageTable]:
    """Every stage in full."""
    return [_stage_table(place, stage) for place, stage in enumerate(result.stages)]


def _stage_table(place: int, stage: Mapping[str, Any]) -> StageTable:
    window = stage.get("window") or {}
    counts = [(name.replace("_", " "), format_count(value)) for name, value in (stage.get("requests") or {}).items()]
    counts += [
        ("goodput", format_rate(stage.get("goodput"), "req/s")),
        ("prompt tokens", format_count(stage.get("input_tokens"))),
        ("output tokens", format_count(stage.get("output_tokens"))),
        ("all tokens", format_rate(stage.get("total_token_rate"), "tokens/s")),
        ("most in flight", format_count((stage.get("concurrency") or {}).get("max"))),
        *_energy(stage.get("energy")),
    ]
    return StageTable(
        index=place,
        label=stage_names.name_of(stage),
        window=" ".join(filter(None, (window.get("text"), (stage.get("rates_window") or {}).get("text")))),
        steady=window.get("steady"),
        counts=counts,
        metrics=_metric_table(stage),
        withheld=any((stage.get(metric) or {}).get("needed_s") for metric in METRIC_ORDER),
        limits=[_limit_row(key, held) for key, held in (stage.get("slo") or {}).items()],
        left_out=left_out(stage),
    )


def _energy(told: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Power and energy of the NPUs in use, where it is known."""
    if told is None:
        return []
    per_token = format_rate(told.get("joules_per_output_token"), "J")
    return [("NPU energy per output token", per_token), ("NPU power", format_rate(told.get("mean_watts"), "W"))]


def _limit_row(key: str, held: Mapping[str, Any]) -> list[Cell]:
    met = held.get("met")
    return [Cell(key), Cell(format_duration(held.get("limit"))), Cell(held_value(held)), _VERDICTS[met]]


def _metric_table(stage: Mapping[str, Any]) -> Table:
    present = [metric for metric in METRIC_ORDER if (stage.get(metric) or {}).get("n")]
    columns = [Column("", "Metric"), Column("", "n"), *(Column("p99" if n != "mean" else "", n) for n in _SHOWN)]
    columns += [Column("", "std"), Column("", "min"), Column("", "max")]
    return Table(columns, [_metric_row(metric, stage[metric]) for metric in present])


def _metric_row(metric: str, found: Mapping[str, Any]) -> list[Cell]:
    size, unit = time_scale(number(found.get("p99")))
    return [
        Cell(name_of(metric), unit, term=metric),
        Cell(format_count(found.get("n"))),
        *(_statistic(found, name, size) for name in (*_SHOWN, "std", "min", "max")),
    ]


def _statistic(found: Mapping[str, Any], name: str, size: float, *, short: bool = False) -> Cell:
    """A statistic in its row's unit, its interval under it; where that is withheld, what it needs (not in `short`)."""
    pair = (found.get("ci95") or {}).get(name)
    withheld = "" if short else needs(found, name)  # in the overview it would make the table wider than a page
    below = f"{significant(pair[0] / size)}–{significant(pair[1] / size)}" if pair else withheld
    return Cell(significant(number(found.get(name)) / size), below)


def needs(found: Mapping[str, Any], name: str) -> str:
    """How long a run would do for an interval that is withheld; empty where none is."""
    seconds = (found.get("needed_s") or {}).get(name)
    return f"needs {format_about(seconds)} or more" if seconds else ""


def token_rows(result: ResultFiles) -> list[list[Cell]]:
    """The token audit: asked and counted, for prompts and answers."""
    tokens = result.summary.get("tokens") or {}
    rows = []
    for side, label in (("input", "Prompt tokens"), ("output", "Output tokens")):
        asked, counted = tokens.get(f"{side}_asked"), tokens.get(f"{side}_counted")
        if asked is None and counted is None:
            continue
        wrong = tokens.get(f"{side}_mismatched") or 0
        share = number(counted) / number(asked) if asked else float("nan")
        other = Cell(format_count(wrong), tone="bad" if wrong else "plain")
        rows.append(
            [Cell(label), Cell(format_count(asked)), Cell(format_count(counted)), Cell(format_share(share)), other]
        )
    return rows


def counted_by(result: ResultFiles) -> str:
    """Where token counts came from, in words."""
    words = {
        "token_ids": "from the token ids of every event",
        "usage": "from the server's usage counts",
        "assumed": "by the server's total, spread over the events",
        "events": "taken as one token an event",
    }
    found = (result.summary.get("tokens") or {}).get("counted_by") or {}
    return ", ".join(f"{format_count(n)} requests {words.get(name, name)}" for name, n in found.items() if n)


def flag_rows(result: ResultFiles) -> list[list[Cell]]:
    """Engine flags: what was asked, what it really became, who says so and why; those that differ are marked."""
    engine = result.run.get("engine") or {}
    asked = {_flag(k): v for k, v in (engine.get("asked") or _command_flags(engine.get("command") or ())).items()}
    effective = {_flag(key): value for key, value in (engine.get("effective") or {}).items()}
    changed = {_flag(row["flag"]): row for row in engine.get("changed") or ()}
    sources = {_flag(key): source for key, source in (engine.get("sources") or {}).items()}
    names = sorted({*asked, *effective, *changed})
    rows = (_flag_row(name, asked.get(name), effective.get(name), changed.get(name)) for name in names)
    return [[*row, Cell(str(sources.get(name, "–")), foreign=True)] for name, row in zip(names, rows, strict=True)]


def _flag(name: str) -> str:
    return str(name).removeprefix("--").replace("-", "_")


def _flag_row(name: str, asked: Any, effective: Any, change: Mapping[str, Any] | None) -> list[Cell]:
    """Of a run that does not tell its changes, a difference of texts is one."""
    differs = asked is not None and effective is not None and _text(asked) != _text(effective)
    known = {"why": "differs" if differs else ""} if change is None else change
    before = known.get("before")
    told = "" if before is None else f"{_text(before)} was expected before the start"
    words = "; ".join(filter(None, [known["why"], told])) or ("differs" if change else "")
    bad = differs if change is None else str(asked).lower() not in ("auto", "none", "-1") or before is not None
    tone = "bad" if bad else "plain"
    return [
        Cell(name, foreign=True),
        Cell(_text(asked), foreign=True),
        Cell(_text(effective), words, tone, foreign=True),
    ]


def _command_flags(command: Sequence[str]) -> dict[str, Any]:
    """Flags and values of a command line, `--name value` or `--name=value`; a flag alone is true."""
    found: dict[str, Any] = {}
    for word, after in zip(command, [*command, "--"][1:], strict=True):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            found[name] = value if equals else (True if after.startswith("--") else after)
    return found


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return ", ".join(_text(part) for part in value) if isinstance(value, list | tuple) else str(value)


def environment_rows(result: ResultFiles) -> list[tuple[str, str]]:
    """Where and with what the run was made."""
    found = dict(result.run.get("environment") or {})
    memory = found.pop("memory_bytes", None)
    packages = found.pop("packages", None) or {}
    rows = [(name.replace("_", " "), _text(value)) for name, value in found.items() if value not in (None, [], {}, "")]
    rows += [("memory", format_bytes(memory))] if memory is not None else []
    return rows + [(f"package {name}", str(version)) for name, version in packages.items()]


def run_rows(result: ResultFiles) -> list[tuple[str, str]]:
    """What was run, when, with which seed, and the hashes that tell two runs apart."""
    run, engine = result.run, result.run.get("engine") or {}
    names = {
        "started_utc": "started (UTC)",
        "scenario_file": "scenario",
        "seed": "seed",
        "repeats": "repeats",
        "endpoint": "endpoint",
    }
    rows = [(label, _text(run[key])) for key, label in names.items() if run.get(key) is not None]
    rows += [("streaming", _text(run["stream"]))] if "stream" in run else []
    rows += [("overrides", _text(run["overrides"]))] if run.get("overrides") else []
    rows += [(f"engine {key}", _text(engine[key])) for key in ("kind", "model", "url") if engine.get(key)]
    return rows + [(name.replace("_sha256", " SHA-256"), str(run[name])) for name in _HASHES if run.get(name)]


def client_rows(result: ResultFiles) -> list[tuple[str, str]]:
    """The client that measured: version, processes, and what its selfcheck found."""
    client = result.run.get("client") or {}
    selfcheck = client.get("selfcheck") or {}
    rows = [(name, _text(client[name])) for name in ("version", "workers") if client.get(name) is not None]
    plain = {key: value for key, value in selfcheck.items() if isinstance(value, str | int | float)}
    return rows + [(f"selfcheck: {_words(key)}", _measured(key, value)) for key, value in plain.items()]


def _words(key: str) -> str:
    return key.removesuffix("_per_s").removesuffix("_s").replace("_", " ")


def _measured(key: str, value: Any) -> str:
    """A value in the unit that its name ends with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    if key.endswith("_per_s"):
        return f"{significant(value)} per second"
    return (
        format_error(value)
        if key.endswith("_s")
        else format_count(value)
        if isinstance(value, int)
        else significant(value)
    )
