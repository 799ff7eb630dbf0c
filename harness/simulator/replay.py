"""The steps that a trace of requests takes, as lines to compare with the real scheduler's.

A trace: {"config": {...limits...}, "requests": [{"id", "arrival_step", "prompt", "output_tokens", "priority"}]};
the priority may be left out.
A line a step in which something happens: {"step", "scheduled", "preempted", "cached", "finished"}.
With "speculative_method" and "num_speculative_tokens" in the config, a request's "accepted" says how many draft tokens
are accepted at a length (the list goes round), and a line has "drafts", too. The KV cache of one with "fetch_steps" is
fetched from elsewhere, in so many steps from when it has blocks; a line has those that "fetch" from it on.

`python -m harness.simulator.replay TRACE.json...` prints them, a JSON line a step.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, InputError, suggestion
from harness.messages import message
from harness.simulator.engine_config import DEFAULT_VERSION
from harness.simulator.scheduler import Scheduler
from harness.simulator.scheduler_types import Request, SchedulerLimits, SchedulerStep
from harness.simulator.speculation import Speculation

FIRST_OUTPUT = 1_000_000  # the output token at position p of its sequence is 1,000,000 + p
_CONFIG: Mapping[str, tuple[str, Any]] = {  # name in the trace: name in Limits, default
    "block_size": ("block_size", 16),
    "num_blocks": ("num_blocks", None),
    "max_num_seqs": ("max_num_seqs", 256),
    "max_num_batched_tokens": ("token_budget", 2048),
    "max_model_len": ("max_model_len", 8192),
    "enable_chunked_prefill": ("chunked_prefill", True),
    "enable_prefix_caching": ("prefix_caching", True),
    "long_prefill_token_threshold": ("long_prefill_token_threshold", 0),
    "long_prefill_token_threshold_adaptive": ("adaptive_threshold", False),
    "max_num_active_seqs": ("max_num_active_seqs", None),
    "scheduler_reserve_full_isl": ("reserve_full_prompt", True),
    "watermark": ("watermark", 0.0),
    "scheduling_policy": ("by_priority", False),
    "prefill_schedule_interval": ("prefill_interval", 1),
    "num_prefill_lookahead": ("prefill_lookahead", 0),
    "max_loras": ("max_loras", 0),
    "engine_version": ("engine_version", DEFAULT_VERSION),
}
_SPECULATION = ("speculative_method", "num_speculative_tokens")
_REQUEST = ("id", "arrival_step", "prompt", "output_tokens")


def read_trace(path: Path) -> dict[str, Any]:
    """The trace in a JSON file, its keys checked.

    Raises:
        InputError: no such file, no JSON, an unknown or a missing key.
    """
    try:
        trace = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(message("simulator.trace_unreadable", path=str(path), reason=error.strerror)) from error
    except ValueError as error:
        raise InputError(message("simulator.trace_not_json", path=str(path), reason=str(error))) from error
    _check(path, trace)
    return dict(trace)


def _check(path: Path, trace: Any) -> None:
    if (
        not isinstance(trace, dict)
        or not isinstance(trace.get("config"), dict)
        or not isinstance(trace.get("requests"), list)
    ):
        raise InputError(message("simulator.trace_shape", path=str(path)))
    for key in trace["config"]:
        if key not in (known := (*_CONFIG, *_SPECULATION)):
            raise InputError(message("simulator.trace_key", path=str(path), key=key, suggestion=suggestion(key, known)))
    if not isinstance(trace["config"].get("num_blocks"), int) or trace["config"]["num_blocks"] < 2:
        raise InputError(message("simulator.trace_blocks", path=str(path)))
    for place, request in enumerate(trace["requests"]):
        for key in _REQUEST:
            if not isinstance(request, dict) or key not in request:
                raise InputError(
                    message("simulator.trace_request", path=str(path), index=place, key=key, expected=_REQUEST)
                )


def limits_of_trace(config: Mapping[str, Any]) -> SchedulerLimits:
    """The limits that a trace's config sets."""
    values = {name: config.get(key, default) for key, (name, default) in _CONFIG.items()}
    limits = SchedulerLimits(**{**values, "by_priority": config.get("scheduling_policy") == "priority"})
    if "num_speculative_tokens" not in config:
        return limits
    return limits.drafting(Speculation(config["speculative_method"], config["num_speculative_tokens"], ()))


def replay(trace: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of a trace in which something happens.

    Ends when every request is finished, or when what is left can never be scheduled.
    """
    scheduler = Scheduler(limits_of_trace(trace["config"]))
    coming = sorted(trace["requests"], key=lambda request: request["arrival_step"])
    steps_of = {str(entry["id"]): entry.get("fetch_steps", 0) for entry in coming}
    fetching: list[tuple[int, Request]] = []
    number = 0
    while coming or scheduler.running or scheduler.waiting or scheduler.holding:
        while coming and coming[0]["arrival_step"] <= number:
            scheduler.add(_request(coming.pop(0)))
        step = scheduler.schedule()
        fetching += [(number + steps_of[request.id], request) for request in step.fetching]
        _, finished = scheduler.complete(step)
        for due, request in fetching:
            if due == number:
                scheduler.fetched(request)
        if step.scheduled or step.preempted or step.fetching:
            yield _line(number, step, finished) | (_drafts(step) if scheduler.limits.draft_tokens else {})
        elif not coming and not any(due >= number for due, _ in fetching):
            return
        number += 1


def _request(entry: Mapping[str, Any]) -> Request:
    accepted = entry.get("accepted") or [0]
    return Request(
        id=str(entry["id"]),
        prompt=entry["prompt"],
        max_tokens=entry["output_tokens"],
        draw=lambda start, end: range(FIRST_OUTPUT + start, FIRST_OUTPUT + end),
        accept=lambda position, verified: min(accepted[position % len(accepted)], verified),
        priority=entry.get("priority", 0),
        adapter=str(entry.get("adapter") or ""),
        remote="fetch_steps" in entry,
    )


def _line(number: int, step: SchedulerStep, finished: list[Request]) -> dict[str, Any]:
    return {
        "step": number,
        "scheduled": {request.id: request.taken for request in step.scheduled},
        "preempted": sorted(request.id for request in step.preempted),
        "cached": {request.id: request.hit for request in step.admitted},
        "finished": sorted(request.id for request in finished),
        **({"fetch": sorted(request.id for request in step.fetching)} if step.fetching else {}),
    }


def _drafts(step: SchedulerStep) -> dict[str, Any]:
    """What a line holds beside the rest under speculation: draft tokens verified, by request."""
    return {"drafts": {request.id: request.verified for request in step.scheduled if request.verified}}


def main(arguments: Sequence[str]) -> int:
    """Print one JSON line a step, and `--` after each of several files; the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m harness.simulator.replay TRACE.json...", file=sys.stderr)  # noqa: T201 - a program of its own
        return 0 if arguments else 2
    try:
        for path in arguments:
            for line in replay(read_trace(Path(path))):
                print(json.dumps(line))  # noqa: T201 - a program of its own
            if len(arguments) > 1:
                print("--")  # noqa: T201 - a program of its own
    except HarnessError as error:
        print(*error.lines, sep="\n", file=sys.stderr)  # noqa: T201 - a program of its own
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
