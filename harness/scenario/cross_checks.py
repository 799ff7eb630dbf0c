"""Checks between the parts of a scenario, and of the files that it names.

What each part may hold is in its model; here stands what only shows when parts meet.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.clock import REAL_TIME
from harness.errors import InputError
from harness.messages import message
from harness.safety.redaction import names_secret
from harness.scenario.deployment import Process, ProcessPart
from harness.scenario.deployment_checks import connector_warnings, deployment_faults
from harness.scenario.engine import DEPLOYMENT, ENGINE_KINDS, Engine
from harness.scenario.error_messages import Fault, KeyPath, dotted, is_secret
from harness.scenario.files import find_data_file
from harness.scenario.flags import is_switch, neither
from harness.scenario.metrics import STREAMED_ONLY
from harness.scenario.models import Scenario, split_objective
from harness.scenario.request_kinds import COMPLETIONS, EMBEDDINGS, MESSAGES, PAIRED, POOLED
from harness.scenario.stages import OFFLINE, stages_of
from harness.scenario.workload import (
    REQUEST_KEYS,
    ConversationWorkload,
    CountSpec,
    DatasetWorkload,
    DocumentsWorkload,
    SyntheticWorkload,
    TextFile,
    TraceWorkload,
    at_most,
    bounds,
)

MOST_REQUESTS = 10_000_000
MOST_STAGES = 1000
MOST_PIXELS = 8192  # a side of an image
_KINDS_OF = {EMBEDDINGS: ("documents", "dataset"), **dict.fromkeys(PAIRED, ("documents",))}

_BETWEEN_TOKENS, _LONGEST_GAP_S = ("tpot", "itl", "chunk_gap"), 10.0
_NO_OFFLINE = {"attach": "scenario.offline_attached", DEPLOYMENT: "scenario.offline_deployment"}
_ENGINE_KEY_OF = {"model": "model", "host": "host", "port": "port", "api_key": "api_key_env"}


def faults_between(scenario: Scenario, folder: Path) -> list[Fault]:
    """What is wrong between the parts of a scenario; files are looked up from `folder`."""
    checks = (_engine, _secrets, _prefix, _context, _objectives, _stages, _kinds, _classes, _offline, _price)
    between = [fault for check in checks for fault in check(scenario)]
    return [*between, *deployment_faults(scenario.engine), *_files(scenario, folder)]


def scenario_warnings(scenario: Scenario) -> list[Fault]:
    """What can be run, but is hardly meant."""
    return [*connector_warnings(scenario.engine), *_long_limits(scenario)]


def _long_limits(scenario: Scenario) -> Iterator[Fault]:
    """Limits on the time between tokens that are seconds where milliseconds are meant."""
    for key, limit_s in scenario.slo.items():
        if split_objective(key)[0] in _BETWEEN_TOKENS and limit_s > _LONGEST_GAP_S:
            meant = f"{limit_s:g}ms"
            yield Fault(("slo", key), message("scenario.limit_in_seconds", limit_s=limit_s, meant=meant))


def _price(scenario: Scenario) -> Iterator[Fault]:
    if scenario.currency is not None and scenario.price_per_hour is None:
        yield Fault(("currency",), message("scenario.currency_of_nothing"))


def _engine(scenario: Scenario) -> Iterator[Fault]:
    engine = scenario.engine
    if engine.model is None and engine.kind not in ("attach", "simulator", DEPLOYMENT) and scenario.kernels is None:
        yield Fault(("engine", "model"), message("scenario.model_missing"))
    if engine.kind == DEPLOYMENT and scenario.kernels is not None:
        yield Fault(("engine", "kind"), message("scenario.kernels_of_deployment"))
    for path, args in _flags(engine):
        for flag, value in args.items():
            if flag in _ENGINE_KEY_OF and flag != "api_key":
                key = f"{dotted(path[:-1])}.{_ENGINE_KEY_OF[flag]}"
                yield Fault((*path, flag), message("scenario.flag_of_harness", key=key))
            elif value is None:
                yield Fault((*path, flag), message("scenario.flag_without_value"))
            elif is_switch(flag) and not isinstance(value, bool):
                yield Fault((*path, flag), neither(value))


def _flags(engine: Engine) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """Every mapping of flags of an engine, and of its processes, with its place."""
    yield ("engine", "args"), engine.args
    for key, part in _parts(engine):
        yield (*key, "args"), part.args


def _parts(engine: Engine) -> Iterator[tuple[KeyPath, Process | ProcessPart]]:
    """What has flags and variables beside the engine itself, with its place."""
    for number, process in enumerate(engine.processes or ()):
        yield ("engine", "processes", number), process
    for name, part in (("process", engine.process), ("prefill", engine.prefill), ("decode", engine.decode)):
        if part is not None:
            yield ("engine", name), part


def _secrets(scenario: Scenario) -> Iterator[Fault]:
    for path, part in ((("engine",), scenario.engine), *_parts(scenario.engine)):
        for name in part.env:
            if is_secret(name):
                yield Fault((*path, "env", name), message("scenario.secret_in_env", name=name))
    for name, value in scenario.engine.headers.items():
        if isinstance(value, str) and (names_secret(name) or value.startswith(("Bearer ", "Basic "))):
            reason = message("scenario.secret_in_authorization")
            if name.lower() != "authorization":
                reason = message("scenario.secret_in_header", name=name)
            yield Fault(("engine", "headers", name), reason)
    for path, args in _flags(scenario.engine):
        yield from _hidden(path, args)
    yield from _hidden(("extra_body",), scenario.extra_body)


def _hidden(path: KeyPath, values: Any) -> Iterator[Fault]:
    """Secrets at any depth of free-form values."""
    items = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        if isinstance(key, str) and is_secret(key):
            yield Fault((*path, key), message("scenario.secret_in_file"))
        yield from _hidden((*path, key), value)


def _prefix(scenario: Scenario) -> Iterator[Fault]:
    work, path = scenario.workload, ("workload", "prefix", "hit_rate")
    if isinstance(work, ConversationWorkload | DocumentsWorkload) and work.prefix and work.prefix.hit_rate is not None:
        yield Fault(path, message("scenario.prefix_rate_of_conversation"))
    if not isinstance(work, SyntheticWorkload) or work.prefix is None:
        return
    if work.prefix.tokens is None:
        if scenario.is_offline:
            yield Fault(path, message("scenario.prefix_rate_offline"))
        return
    longest = bounds(work.input_tokens)[1]
    if longest is not None and work.prefix.tokens >= longest:
        yield Fault(
            ("workload", "prefix", "tokens"),
            message("scenario.prefix_too_long", tokens=work.prefix.tokens, longest=longest),
        )


def _context(scenario: Scenario) -> Iterator[Fault]:
    """Requests that the engine would refuse because they do not fit its context."""
    limit = scenario.engine.args.get("max_model_len")
    needed = _longest_request(scenario.workload)
    if scenario.engine.kind == "attach" or type(limit) is not int or needed is None or needed <= limit:
        return
    yield Fault(
        ("engine", "args", "max_model_len"),
        message("scenario.context_too_short", limit=limit, needed=needed),
    )


def _longest_request(work: Any) -> int | None:
    if isinstance(work, SyntheticWorkload):
        return at_most(work.input_tokens) + at_most(work.output_tokens)
    if isinstance(work, ConversationWorkload):
        system = 0 if work.prefix is None else work.prefix.tokens or 0
        return system + at_most(work.turns) * (at_most(work.input_tokens) + at_most(work.output_tokens))
    return None


def _objectives(scenario: Scenario) -> Iterator[Fault]:
    answers: CountSpec | None = getattr(scenario.workload, "output_tokens", None)
    for key in scenario.slo:
        metric = split_objective(key)[0]
        if scenario.endpoint in POOLED and metric in STREAMED_ONLY:
            yield Fault(("slo", key), message("scenario.needs_tokens", endpoint=scenario.endpoint, metric=metric))
        elif not scenario.stream and metric in STREAMED_ONLY:
            yield Fault(
                ("slo", key),
                message("scenario.needs_stream", metric=metric),
            )
        elif metric in _BETWEEN_TOKENS and answers is not None and bounds(answers)[1] == 1:
            yield Fault(("slo", key), message("scenario.needs_second_token", metric=metric))


def _stages(scenario: Scenario) -> Iterator[Fault]:
    if len(scenario.stages) > MOST_STAGES:
        yield Fault(("load",), message("scenario.too_many_stages", stages=len(scenario.stages), most=MOST_STAGES))
        return
    for index, item in enumerate(scenario.load or ()):
        kind = next(iter(type(item).model_fields))
        path = ("load", index, kind)
        stages = stages_of(item)
        sent = max((stage.expected_requests or 0) for stage in stages)
        if sent > MOST_REQUESTS:
            yield Fault(path, message("scenario.too_many_requests", requests=round(sent), most=MOST_REQUESTS))
        for stage in stages:
            if stage.concurrency and stage.requests and stage.requests < stage.concurrency:
                yield Fault(
                    (*path, "requests"),
                    message("scenario.fewer_than_concurrent", requests=stage.requests, concurrency=stage.concurrency),
                )
                break


def _kinds(scenario: Scenario) -> Iterator[Fault]:
    """Workloads and keys that the endpoint does not take."""
    work, endpoint = scenario.workload, scenario.endpoint
    if work is None or scenario.is_offline:
        return
    if isinstance(work, DocumentsWorkload):
        yield from _documents(work, endpoint)
    elif work.kind not in (kinds := _KINDS_OF.get(endpoint, (work.kind,))):
        yield Fault(("workload", "kind"), message("scenario.kind_of_endpoint", endpoint=endpoint, kinds=list(kinds)))
    for key, wanted in (("images", MESSAGES), ("tools", MESSAGES), ("structured", (COMPLETIONS, *MESSAGES))):
        if getattr(work, key, None) is not None and endpoint not in wanted:
            yield _belongs(key, wanted, endpoint)
    images = getattr(work, "images", None)
    largest = 0 if images is None else max(map(at_most, images.size))
    if largest > MOST_PIXELS:
        reason = message("scenario.image_too_large", pixels=largest, most=MOST_PIXELS)
        yield Fault(("workload", "images", "size"), reason)


def _documents(work: DocumentsWorkload, endpoint: str) -> Iterator[Fault]:
    if endpoint not in POOLED:
        yield Fault(("endpoint",), message("scenario.key_of_documents", endpoints=list(POOLED), endpoint=endpoint))
        return
    if endpoint in PAIRED and work.query_tokens is None:
        yield Fault(("workload",), message("scenario.query_missing", endpoint=endpoint))
    for key, wanted in (("query_tokens", PAIRED), ("prefix", (EMBEDDINGS,)), ("text", (EMBEDDINGS,))):
        if getattr(work, key) is not None and endpoint not in wanted:
            yield _belongs(key, wanted, endpoint)


def _belongs(key: str, endpoints: Sequence[str], endpoint: str) -> Fault:
    reason = message("scenario.key_of_endpoints", endpoints=list(endpoints), endpoint=endpoint)
    return Fault(("workload", key), reason)


def _classes(scenario: Scenario) -> Iterator[Fault]:
    """Adapters, models and priorities that the engine or the load do not fit."""
    work, engine = scenario.workload, scenario.engine
    given = {name for name in REQUEST_KEYS if getattr(work, name, None) is not None}
    for key, other in (("models", "adapters"), ("tools", "structured")):
        if {key, other} <= given:
            yield Fault(("workload", key), message("scenario.not_together", key=key, other=other))
    if engine.kind in ENGINE_KINDS and engine.kind != "attach":
        if "adapters" in given and not engine.args.get("enable_lora"):
            yield Fault(("workload", "adapters"), message("scenario.adapters_need_lora"))
        if "priority" in given and engine.args.get("scheduling_policy") != "priority":
            yield Fault(("workload", "priority"), message("scenario.priority_needs_policy"))
    known = len(work.adapters.names) if "adapters" in given else 0  # type: ignore[union-attr] # it is given
    for index, item in enumerate(scenario.load or ()):
        kind = next(iter(type(item).model_fields))
        most = max((stage.adapters or 0 for stage in stages_of(item)), default=0)
        if most > known:
            path = ("load", index, kind, "adapters")
            yield Fault(path, message("scenario.too_many_adapters", adapters=most, known=known))


def _offline(scenario: Scenario) -> Iterator[Fault]:
    """What has no meaning where requests go to `LLM.generate` and not to a server."""
    if not scenario.is_offline:
        return
    kinds = [next(iter(type(item).model_fields)) for item in scenario.load or ()]
    odd = next((index for index, kind in enumerate(kinds) if (kind == OFFLINE) != (kinds[0] == OFFLINE)), None)
    if odd is not None:
        yield Fault(("load", odd, kinds[odd]), message("scenario.offline_and_online"))
    if scenario.engine.kind in _NO_OFFLINE:
        yield Fault(("engine", "kind"), message(_NO_OFFLINE[scenario.engine.kind]))
    if scenario.engine.clock == REAL_TIME:
        yield Fault(("engine", "clock"), message("scenario.offline_real_time"))
    if scenario.endpoint != "completions":
        yield Fault(("endpoint",), message("scenario.offline_chat"))
    if isinstance(scenario.workload, ConversationWorkload):
        yield Fault(("workload", "kind"), message("scenario.offline_conversation"))
    given = (key for key in REQUEST_KEYS if getattr(scenario.workload, key, None) is not None)
    yield from (Fault(("workload", key), message("scenario.offline_kinds")) for key in given)
    if scenario.warmup is not None and scenario.warmup.duration is not None:
        yield Fault(("warmup", "duration"), message("scenario.offline_warmup"))
    for key in scenario.slo:
        metric = split_objective(key)[0]
        if metric in STREAMED_ONLY:
            yield Fault(("slo", key), message("scenario.offline_slo", metric=metric))


def _files(scenario: Scenario, folder: Path) -> Iterator[Fault]:
    named: dict[KeyPath, str] = {}
    if isinstance(scenario.workload, DatasetWorkload | TraceWorkload):
        named["workload", "path"] = scenario.workload.path
    text = getattr(scenario.workload, "text", None)
    if isinstance(text, TextFile):
        named["workload", "text", "path"] = text.path
    for place, path in named.items():
        try:
            find_data_file(path, folder)
        except InputError as error:
            yield Fault(place, error.messages[0])
