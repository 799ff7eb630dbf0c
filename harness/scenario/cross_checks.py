"""Do the parts of a scenario make sense together, and are its files there?

What each part may hold is in its model; here stands what only shows when parts meet.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.safety.redaction import names_secret
from harness.scenario.error_messages import Fault, KeyPath, is_secret
from harness.scenario.files import find_data_file
from harness.scenario.models import Scenario, is_switch, neither, split_objective
from harness.scenario.stages import OFFLINE, stages_of
from harness.scenario.workload import (
    ConversationWorkload,
    CountSpec,
    DatasetWorkload,
    SyntheticWorkload,
    TraceWorkload,
    at_most,
    bounds,
)

MOST_REQUESTS = 10_000_000
MOST_STAGES = 1000

_ENGINE_KEY_OF = {"model": "model", "host": "host", "port": "port", "api_key": "api_key_env"}
_AUTHORIZATION = "engine.api_key_env for a bearer key, or {from_env: VARIABLE} for the whole value"
_STREAMED = ("ttft", "ttft_user", "tpot", "itl", "chunk_gap")


def faults_between(scenario: Scenario, folder: Path) -> list[Fault]:
    """What is wrong between the parts of a scenario; files are looked up from `folder`."""
    checks = (_engine, _secrets, _prefix, _context, _objectives, _stages, _offline)
    return [*(fault for check in checks for fault in check(scenario)), *_files(scenario, folder)]


def _engine(scenario: Scenario) -> Iterator[Fault]:
    engine = scenario.engine
    if engine.model is None and engine.kind not in ("attach", "simulator") and scenario.kernels is None:
        yield Fault(("engine", "model"), "missing; expected a model, such as Qwen/Qwen2.5-7B-Instruct")
    for flag, value in engine.args.items():
        if flag in _ENGINE_KEY_OF and flag != "api_key":
            yield Fault(
                ("engine", "args", flag),
                f"the flag is set by the harness; expected engine.{_ENGINE_KEY_OF[flag]}",
            )
        elif value is None:
            yield Fault(("engine", "args", flag), "a flag without a value; expected true for a switch")
        elif is_switch(flag) and not isinstance(value, bool):
            yield Fault(("engine", "args", flag), neither(value))


def _secrets(scenario: Scenario) -> Iterator[Fault]:
    for name in scenario.engine.env:
        if is_secret(name):
            yield Fault(
                ("engine", "env", name),
                f"a secret does not belong in a file; expected {name} in the shell, for all to inherit",
            )
    for name, value in scenario.engine.headers.items():
        if isinstance(value, str) and (names_secret(name) or value.startswith(("Bearer ", "Basic "))):
            expected = f"{name}: {{from_env: VARIABLE}}" if name.lower() != "authorization" else _AUTHORIZATION
            text = f"a secret does not belong in a file; expected {expected}"
            yield Fault(("engine", "headers", name), text)
    yield from _hidden(("engine", "args"), scenario.engine.args)
    yield from _hidden(("extra_body",), scenario.extra_body)


def _hidden(path: KeyPath, values: Any) -> Iterator[Fault]:
    """Secrets at any depth of free-form values."""
    items = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        if isinstance(key, str) and is_secret(key):
            expected = "engine.api_key_env, the name of an environment variable"
            yield Fault((*path, key), f"a secret does not belong in a file; expected {expected}")
        yield from _hidden((*path, key), value)


def _prefix(scenario: Scenario) -> Iterator[Fault]:
    work = scenario.workload
    if not isinstance(work, SyntheticWorkload) or work.prefix is None:
        return
    longest = bounds(work.input_tokens)[1]
    if longest is not None and work.prefix.tokens >= longest:
        yield Fault(
            ("workload", "prefix", "tokens"),
            f"a prefix of {work.prefix.tokens} tokens fills every prompt, of at most {longest}; "
            f"expected fewer than {longest}",
        )


def _context(scenario: Scenario) -> Iterator[Fault]:
    """Requests that the engine would refuse because they do not fit its context."""
    limit = scenario.engine.args.get("max_model_len")
    needed = _longest_request(scenario.workload)
    if scenario.engine.kind == "attach" or type(limit) is not int or needed is None or needed <= limit:
        return
    yield Fault(
        ("engine", "args", "max_model_len"),
        f"{limit} tokens are too few: prompt and answer reach {needed}; expected at least {needed}",
    )


def _longest_request(work: Any) -> int | None:
    if isinstance(work, SyntheticWorkload):
        return at_most(work.input_tokens) + at_most(work.output_tokens)
    if isinstance(work, ConversationWorkload):
        system = 0 if work.prefix is None else work.prefix.tokens
        return system + at_most(work.turns) * (at_most(work.input_tokens) + at_most(work.output_tokens))
    return None


def _objectives(scenario: Scenario) -> Iterator[Fault]:
    answers: CountSpec | None = getattr(scenario.workload, "output_tokens", None)
    for key in scenario.slo:
        metric = split_objective(key)[0]
        if not scenario.stream and metric in _STREAMED:
            yield Fault(
                ("slo", key),
                f"{metric} cannot be told when answers come whole; expected stream: true, or e2e",
            )
        elif metric in ("tpot", "itl", "chunk_gap") and answers is not None and bounds(answers)[1] == 1:
            yield Fault(("slo", key), f"{metric} needs a second token; expected output_tokens above 1")


def _stages(scenario: Scenario) -> Iterator[Fault]:
    if len(scenario.stages) > MOST_STAGES:
        yield Fault(("load",), f"{len(scenario.stages)} stages; expected at most {MOST_STAGES}")
        return
    for index, item in enumerate(scenario.load or ()):
        kind = next(iter(type(item).model_fields))
        path = ("load", index, kind)
        stages = stages_of(item)
        sent = max((stage.expected_requests or 0) for stage in stages)
        if sent > MOST_REQUESTS:
            yield Fault(path, f"about {sent:.0f} requests in a stage; expected at most {MOST_REQUESTS}")
        for stage in stages:
            if stage.concurrency and stage.requests and stage.requests < stage.concurrency:
                yield Fault(
                    (*path, "requests"),
                    f"{stage.requests} requests cannot keep {stage.concurrency} in flight; "
                    f"expected at least {stage.concurrency}",
                )
                break


def _offline(scenario: Scenario) -> Iterator[Fault]:
    """What has no meaning where requests go to `LLM.generate` and not to a server."""
    if not scenario.is_offline:
        return
    kinds = [next(iter(type(item).model_fields)) for item in scenario.load or ()]
    odd = next((index for index, kind in enumerate(kinds) if (kind == OFFLINE) != (kinds[0] == OFFLINE)), None)
    if odd is not None:
        text = "stages with and without a server stand together; expected offline alone, or without it"
        yield Fault(("load", odd, kinds[odd]), text)
    if scenario.engine.kind == "attach":
        text = "an offline stage needs an engine that is started here; expected simulator, vllm or vllm-ascend"
        yield Fault(("engine", "kind"), text)
    if scenario.endpoint != "completions":
        yield Fault(("endpoint",), "an offline stage sends token ids, and no chat; expected completions")
    if isinstance(scenario.workload, ConversationWorkload):
        text = "an offline stage sends everything at once, and a turn waits for an answer; expected another workload"
        yield Fault(("workload", "kind"), text)
    if scenario.warmup is not None and scenario.warmup.duration is not None:
        yield Fault(("warmup", "duration"), "an offline stage warms up by a call of so many; expected requests")
    for key in scenario.slo:
        metric = split_objective(key)[0]
        if metric in _STREAMED:
            yield Fault(
                ("slo", key), f"nobody waits for a token in an offline stage; expected e2e in place of {metric}"
            )


def _files(scenario: Scenario, folder: Path) -> Iterator[Fault]:
    if not isinstance(scenario.workload, DatasetWorkload | TraceWorkload):
        return
    try:
        find_data_file(scenario.workload.path, folder)
    except InputError as error:
        yield Fault(("workload", "path"), str(error))
