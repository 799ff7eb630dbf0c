"""The command `harness`: parse, carry out, print, exit. Nothing else prints.

Results go to stdout, progress and errors to stderr, one line each, in the language of --lang or of the locale. What
is heavy is imported by the command that needs it, so that `harness --help` answers at once.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from harness.cli.parser import SERVE_PROXY, SERVE_SIM, parse, split_language
from harness.cli.terminal import CommandOutcome, OutputLine, print_error, text_of
from harness.errors import EXIT_DONE, EXIT_INTERRUPTED, HarnessError
from harness.messages import LANGUAGES, language, language_of, message
from harness.safety import interrupts, redaction

_COMMANDS = {  # the module of harness.cli and its function from arguments and a log to an outcome
    "run": ("run", "run_command"),
    "watch": ("watch", "watch_command"),
    "tune": ("tune", "tune_command"),
    "report": ("report", "report_command"),
    "compare": ("compare", "compare_command"),
    "scenarios": ("scenarios", "scenarios_command"),
    "validate": ("scenarios", "validate_command"),
    "schema": ("scenarios", "schema_command"),
    "selfcheck": ("run", "selfcheck_command"),
    "doctor": ("doctor", "doctor_command"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of `harness`; exits with the code that the outcome has."""
    words = list(sys.argv[1:] if argv is None else argv)
    redaction.register_environment()
    requested, rest = split_language(words)
    with language(requested if requested in LANGUAGES else language_of(os.environ)):
        code = _exit_code(words, requested, rest)
    raise SystemExit(interrupts.shell_exit_code(code))


def _exit_code(words: list[str], requested: str | None, rest: list[str]) -> int:
    try:
        with interrupts.listening():
            return _carry_out(words, requested, rest)
    except HarnessError as error:
        for line in error.localized_lines():
            _log(line)
        return error.exit_code
    except KeyboardInterrupt:
        _log(message("cli.ended_by", signal=interrupts.signal_name()))
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has had enough
        sys.stderr.close()
        return EXIT_DONE


def _carry_out(words: list[str], requested: str | None, rest: list[str]) -> int:
    if rest[:1] in ([SERVE_SIM], [SERVE_PROXY]):  # any flag of `vllm serve` may follow, so they read their own
        from harness.cli import serve_sim  # noqa: PLC0415 - heavy: aiohttp

        serve = serve_sim.serve_command if rest[0] == SERVE_SIM else serve_sim.proxy_command
        return serve(rest[1:], _print, print_error)
    arguments = parse(rest, requested, (*_COMMANDS, SERVE_SIM, SERVE_PROXY))
    arguments.words = words
    module, function = _COMMANDS[arguments.command]
    command = getattr(importlib.import_module(f"harness.cli.{module}"), function)
    outcome: CommandOutcome = command(arguments, _log)
    for line in outcome.lines:
        _print(line)
    for line in outcome.errors:
        _log(line)
    return outcome.exit_code


def _print(line: OutputLine) -> None:
    print(text_of(line), flush=True)


def _log(line: OutputLine) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone must not end what is being measured
        print_error(f"harness: {text_of(line)}")
