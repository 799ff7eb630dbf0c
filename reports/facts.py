"""Lists of facts on a run's page: tokens, engine flags, environment, client, and what was run."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from harness.messages import localized, stored
from harness.results.folder import ResultFiles, number
from harness.units import format_bytes, format_count, format_error, format_share, significant
from reports.tables import Cell
from reports.texts import listed

_HASHES = {
    "scenario_sha256": "page.again.scenario_hash",
    "payload_sha256": "page.again.payload_hash",
    "schedule_sha256": "page.again.schedule_hash",
}


def token_rows(result: ResultFiles) -> list[list[Cell]]:
    """The token audit: requested and counted tokens of prompts and answers."""
    tokens = result.summary.get("tokens") or {}
    rows = []
    for side, code in (("input", "page.tokens.prompt"), ("output", "page.tokens.output")):
        requested, counted = tokens.get(f"{side}_asked"), tokens.get(f"{side}_counted")
        if requested is None and counted is None:
            continue
        wrong = tokens.get(f"{side}_mismatched") or 0
        share = number(counted) / number(requested) if requested else float("nan")
        other = Cell(format_count(wrong), tone="bad" if wrong else "plain")
        rows.append(
            [
                Cell(localized(code)),
                Cell(format_count(requested)),
                Cell(format_count(counted)),
                Cell(format_share(share)),
                other,
            ]
        )
    return rows


def counted_by(result: ResultFiles) -> str:
    """The source of the token counts, in words."""
    counts = (result.summary.get("tokens") or {}).get("counted_by") or {}
    sources = [_token_source(name, requests) for name, requests in counts.items() if requests]
    return localized("page.tokens.counted_by", sources=sources) if sources else ""


_TOKEN_SOURCES = {
    "token_ids": "page.tokens.by_token_ids",
    "usage": "page.tokens.by_usage",
    "assumed": "page.tokens.by_assumed",
    "events": "page.tokens.by_events",
}


def _token_source(name: str, requests: int) -> str:
    if name in _TOKEN_SOURCES:
        return localized(_TOKEN_SOURCES[name], requests=requests)
    return localized("page.tokens.by_other", requests=requests, source=name)


def flag_rows(result: ResultFiles) -> list[list[Cell]]:
    """Engine flags: requested and effective values, the source and the reason; those that differ are marked."""
    return _flag_rows(result.run.get("engine") or {})


def process_flags(result: ResultFiles) -> list[tuple[str, list[list[Cell]]]]:
    """The flags of the processes of a deployment, once for all that have the same, with a head that names those."""
    groups: list[tuple[list[str], list[list[Cell]]]] = []
    for process in (result.run.get("engine") or {}).get("processes") or ():
        rows = _flag_rows({**process, "command": ()})
        same = next((names for names, others in groups if others == rows), None)
        if same is not None:
            same.append(process["name"])
        elif rows:
            groups.append(([process["name"]], rows))
    return [(localized("page.engine.flags_of", names=names), rows) for names, rows in groups]


def process_commands(result: ResultFiles) -> str:
    """The command line of each process of a deployment that was started, behind its name."""
    processes = (result.run.get("engine") or {}).get("processes") or ()
    lines = (f"{row['name']}: {shlex.join(map(str, row['command']))}" for row in processes if row.get("command"))
    return "\n".join(lines)


def _flag_rows(engine: Mapping[str, Any]) -> list[list[Cell]]:
    requested = {_flag(k): v for k, v in (engine.get("asked") or _command_flags(engine.get("command") or ())).items()}
    effective = {_flag(key): value for key, value in (engine.get("effective") or {}).items()}
    changed = {_flag(row["flag"]): row for row in engine.get("changed") or ()}
    sources = {_flag(key): source for key, source in (engine.get("sources") or {}).items()}
    names = sorted({*requested, *effective, *changed})
    rows = (_flag_row(name, requested.get(name), effective.get(name), changed.get(name)) for name in names)
    return [[*row, Cell(str(sources.get(name, "–")), foreign=True)] for name, row in zip(names, rows, strict=True)]


def _flag(name: str) -> str:
    return str(name).removeprefix("--").replace("-", "_")


def _flag_row(name: str, requested: Any, effective: Any, change: Mapping[str, Any] | None) -> list[Cell]:
    """Of a run that does not record its changes, a difference of texts is one."""
    differs = requested is not None and effective is not None and _text(requested) != _text(effective)
    before = None if change is None else change.get("before")
    reasons = [] if change is None else [localized(stored(change.get("reason"), str(change["why"])))]
    reasons += [] if before is None else [localized("page.engine.expected", value=_text(before))]
    words = listed([reason for reason in reasons if reason], "parts")
    words = words or (localized("page.engine.differs") if differs or change else "")
    bad = differs if change is None else str(requested).lower() not in ("auto", "none", "-1") or before is not None
    tone = "bad" if bad else "plain"
    return [
        Cell(name, foreign=True),
        Cell(_text(requested), foreign=True),
        Cell(_text(effective), words, tone, foreign=True),
    ]


def _command_flags(command: Sequence[str]) -> dict[str, Any]:
    """Flags and values of a command line, `--name value` or `--name=value`; a flag alone is true."""
    flags: dict[str, Any] = {}
    for word, after in zip(command, [*command, "--"][1:], strict=True):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            flags[name] = value if equals else (True if after.startswith("--") else after)
    return flags


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return ", ".join(_text(part) for part in value) if isinstance(value, list | tuple) else str(value)


def environment_rows(result: ResultFiles) -> list[tuple[str, str]]:
    """The machine, its software and its packages."""
    facts = dict(result.run.get("environment") or {})
    memory = facts.pop("memory_bytes", None)
    packages = facts.pop("packages", None) or {}
    rows = [(environment_name(name), _text(value)) for name, value in facts.items() if value not in (None, [], {}, "")]
    rows += [(localized("page.engine.memory"), format_bytes(memory))] if memory is not None else []
    return rows + [(localized("page.engine.package", name=name), str(version)) for name, version in packages.items()]


_ENVIRONMENT = {
    "host": "page.engine.host",
    "cpu": "page.engine.cpu",
    "cores": "page.engine.cores",
    "os": "page.engine.os",
    "python": "page.engine.python",
    "npu": "page.engine.npu",
    "cann": "page.engine.cann",
}


def environment_name(name: str) -> str:
    """The name of a fact about the machine."""
    return localized(_ENVIRONMENT[name]) if name in _ENVIRONMENT else name.replace("_", " ")


def run_rows(result: ResultFiles) -> list[tuple[str, str]]:
    """Facts to run it again: start, scenario, seed, engine, and the hashes by which two runs are compared."""
    run, engine = result.run, result.run.get("engine") or {}
    names = {
        "started_utc": "page.again.started",
        "scenario_file": "page.again.scenario_name",
        "seed": "page.again.seed",
        "repeats": "page.again.repeats",
        "endpoint": "page.again.endpoint",
    }
    parts = {"kind": "page.again.engine_kind", "model": "page.again.engine_model", "url": "page.again.engine_url"}
    rows = [(localized(code), _text(run[key])) for key, code in names.items() if run.get(key) is not None]
    rows += [(localized("page.again.streaming"), _text(run["stream"]))] if "stream" in run else []
    rows += [(localized("page.again.overrides"), _text(run["overrides"]))] if run.get("overrides") else []
    rows += [(localized(code), _text(engine[key])) for key, code in parts.items() if engine.get(key)]
    return rows + [(localized(code), str(run[name])) for name, code in _HASHES.items() if run.get(name)]


def client_rows(result: ResultFiles) -> list[tuple[str, str]]:
    """The client that measured: version, processes and the figures of its selfcheck."""
    client = result.run.get("client") or {}
    selfcheck = client.get("selfcheck") or {}
    codes = {"version": "page.client.version", "workers": "page.client.workers"}
    rows = [(localized(code), _text(client[name])) for name, code in codes.items() if client.get(name) is not None]
    plain = {key: value for key, value in selfcheck.items() if isinstance(value, str | int | float)}
    return rows + [
        (localized("page.client.selfcheck", name=_selfcheck_name(key)), _measured(key, value))
        for key, value in plain.items()
    ]


_SELFCHECK = {
    "floor_ttft": "page.client.floor_ttft",
    "floor_gap_p99": "page.client.floor_gap_p99",
    "ceiling_tokens": "page.client.ceiling_tokens",
    "ceiling_streams": "page.client.ceiling_streams",
    "limited_by": "page.client.limited_by",
}


def _selfcheck_name(key: str) -> str:
    name = key.removesuffix("_per_s").removesuffix("_s")
    return localized(_SELFCHECK[name]) if name in _SELFCHECK else name.replace("_", " ")


def _measured(key: str, value: Any) -> str:
    """A value in the unit that its name ends with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    if key.endswith("_per_s"):
        return localized("page.client.per_second", rate=value)
    if key.endswith("_s"):
        return format_error(value)
    return format_count(value) if isinstance(value, int) else significant(value)
