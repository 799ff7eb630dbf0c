"""What happens when somebody types `harness doctor`?"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from harness.doctor import examine
from harness.doctor.findings import FAULTS, Finding, closing_line, finding_lines
from harness.doctor.hardware import inspect_hardware
from harness.doctor.software import generation_findings, query_packages
from harness.errors import EXIT_DONE, EXIT_ENGINE, EXIT_GATE, InputError
from harness.messages import Message
from harness.telemetry.environment import this_host


@dataclass(frozen=True, slots=True)
class Told:
    """Lines for stdout, and the exit code."""

    lines: tuple[str, ...]
    exit_code: int


def doctor_command(chosen: argparse.Namespace, tell: Callable[[str], None]) -> Told:
    """`harness doctor`: look at the machine, or with --generate at vLLM at work.

    Raises:
        InputError: where a flag is wrong.
    """
    probe, python = this_host(), _interpreter(chosen.python)
    if chosen.generate is None:
        if chosen.overrides:
            raise InputError("--set is for vLLM's LLM; expected with --generate MODEL")
        found = examine(probe, python)
        strict = chosen.strict and _faulty(found)
        return Told((*finding_lines(found), closing_line(found)), EXIT_GATE if strict else EXIT_DONE)
    args = dict(_pair(text) for text in chosen.overrides)
    interpreter = query_packages(probe, python)
    if isinstance(interpreter, Message):
        raise InputError(f"--python {python}: cannot be asked for its packages ({interpreter})")
    if interpreter.vllm is not None:
        tell(f"loading {chosen.generate} with vLLM {interpreter.vllm}; this may take minutes")
    made = list(generation_findings(inspect_hardware(probe), interpreter, chosen.generate, args))
    return Told(tuple(finding_lines(made)), EXIT_ENGINE if _faulty(made) else EXIT_DONE)


def _interpreter(asked: str | None) -> str:
    """The path to run; links stay, for a virtual environment is known by its own."""
    if asked is None:
        return sys.executable
    return os.path.abspath(asked) if os.sep in asked else asked  # noqa: PTH100 - Path.resolve follows links


def _faulty(found: Iterable[Finding]) -> bool:
    return any(row.severity in FAULTS for row in found)


def _pair(text: str) -> tuple[str, Any]:
    """`name=value` of an argument of vLLM's `LLM`; the value is JSON where it can be read so, else text."""
    name, given, value = text.partition("=")
    if not given or not name.replace("-", "_").isidentifier():
        raise InputError(f"--set {text!r}: expected NAME=VALUE, such as load_format=dummy")
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value
