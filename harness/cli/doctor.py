"""`harness doctor`: checks of the machine, or with --generate of vLLM at work."""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from harness.cli.terminal import CommandOutcome, OutputLog
from harness.doctor import examine
from harness.doctor.findings import FAULTS, Finding, closing_line, finding_lines
from harness.doctor.hardware import inspect_hardware
from harness.doctor.software import generation_findings, query_packages
from harness.errors import EXIT_DONE, EXIT_ENGINE, EXIT_GATE, InputError
from harness.messages import Message, message
from harness.telemetry.environment import this_host


def doctor_command(arguments: argparse.Namespace, log: OutputLog) -> CommandOutcome:
    """Check the machine, or with --generate that vLLM generates.

    Raises:
        InputError: where a flag is wrong.
    """
    host, python = this_host(), _interpreter(arguments.python)
    if arguments.generate is None:
        if arguments.overrides:
            raise InputError(message("doctor.set_without_generate"))
        findings = examine(host, python)
        strict = arguments.strict and _has_fault(findings)
        lines = (*finding_lines(findings), closing_line(findings))
        return CommandOutcome(lines, EXIT_GATE if strict else EXIT_DONE)
    args = dict(_pair(text) for text in arguments.overrides)
    interpreter = query_packages(host, python)
    if isinstance(interpreter, Message):
        raise InputError(message("doctor.python_option", python=python, reason=interpreter))
    if interpreter.vllm is not None:
        log(message("doctor.loading", model=arguments.generate, version=interpreter.vllm))
    findings = list(generation_findings(inspect_hardware(host), interpreter, arguments.generate, args))
    return CommandOutcome(finding_lines(findings), EXIT_ENGINE if _has_fault(findings) else EXIT_DONE)


def _interpreter(given: str | None) -> str:
    """The path to run; links stay, for a virtual environment is known by its own."""
    if given is None:
        return sys.executable
    return os.path.abspath(given) if os.sep in given else given  # noqa: PTH100 - Path.resolve follows links


def _has_fault(findings: Iterable[Finding]) -> bool:
    return any(row.severity in FAULTS for row in findings)


def _pair(text: str) -> tuple[str, Any]:
    """`name=value` of an argument of vLLM's `LLM`; the value is JSON where it can be read so, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.replace("-", "_").isidentifier():
        raise InputError(message("doctor.set_form", text=text))
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value
