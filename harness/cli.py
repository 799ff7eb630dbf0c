"""What did the user ask for? Parse, make one call, print: nothing else prints.

Results go to stdout, progress and faults to stderr, one line a fault. Everything heavy is
imported by the command that needs it, so that `harness --help` answers at once.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import __version__
from harness.errors import (
    EXIT_DONE,
    EXIT_GATE,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_INVALID,
    HarnessError,
    InputError,
    suggestion,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of `harness`; exits with the code that the outcome has."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _obey(words)
    except HarnessError as fault:
        for line in fault.lines:
            _tell(line)
        code = fault.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has had enough
        sys.stderr.close()
        code = EXIT_DONE
    raise SystemExit(code)


def _obey(words: list[str]) -> int:
    parser = _parser()
    names = (*_COMMANDS, _SERVE_SIM)
    if words and not words[0].startswith("-") and words[0] not in names:
        raise InputError(f"unknown command {words[0]!r}; {suggestion(words[0], names)}")
    if words[:1] == [_SERVE_SIM]:  # any flag of `vllm serve` may follow, so this command reads its own
        return _serve_sim(words[1:])
    chosen = parser.parse_args(words)
    chosen.words = words
    return _COMMANDS[chosen.command](chosen)


def _tell(line: str) -> None:
    print(f"harness: {line}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """argparse with faults in one line, like all others."""

    def error(self, message: str) -> Any:
        raise InputError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="harness",
        description="Benchmark and tune vLLM on Ascend NPUs: from a scenario file to an honest result.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"npu-harness {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_run(commands)
    report = commands.add_parser("report", help="draw the page of result folders again, without any load")
    report.add_argument("folders", nargs="+", metavar="DIR", type=Path)
    validate = commands.add_parser("validate", help="check scenario files; every fault with file, line and key")
    validate.add_argument("files", nargs="+", metavar="FILE", type=Path)
    commands.add_parser("schema", help="print the JSON Schema of scenario files")
    selfcheck = commands.add_parser("selfcheck", help="how exact this client is on this machine: its floor and ceiling")
    selfcheck.add_argument("--quiet", action="store_true", help="no progress")
    _add_doctor(commands)
    commands.add_parser(
        _SERVE_SIM,
        add_help=False,
        help="the embedded engine alone, as an OpenAI-compatible server; takes flags of `vllm serve`",
    )
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser("run", help="run a scenario file: load, records, summary, page")
    run.add_argument("scenario", metavar="SCENARIO.yaml", type=Path)
    run.add_argument("--url", help="load the server at this address instead of starting an engine")
    run.add_argument("--model", help="the model to ask for")
    run.add_argument("--engine", metavar="KIND", help="auto, simulator, vllm-ascend, vllm or attach")
    run.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override a key of the scenario, such as load.0.poisson.rate=4",
    )
    run.add_argument("--out", metavar="DIR", type=Path, help="result folder (default: results/NAME-TIME)")
    run.add_argument("--seed", type=int, help="override the scenario's seed")
    run.add_argument("--quiet", action="store_true", help="no progress")
    run.add_argument("--strict", action="store_true", help="exit 4 where the result is not valid")
    run.add_argument("--enforce-slo", action="store_true", help="exit 1 where a stage misses the scenario's SLO")


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="what this machine has for serving on NPUs, what is missing, and what mends it",
        description="Each line is ok, note, missing or wrong; an arrow below shows what mends it. Exits with 0 "
        "whatever it finds; with --strict, 1 where something is missing or wrong. With --generate, 3 where vLLM fails.",
    )
    doctor.add_argument("--python", metavar="PATH", help="the interpreter that has vLLM (default: this one)")
    doctor.add_argument("--generate", metavar="MODEL", help="generate a few tokens with vLLM instead")
    doctor.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="with --generate: an argument of vLLM's LLM, such as load_format=dummy",
    )
    doctor.add_argument("--strict", action="store_true", help="exit 1 where something is missing or wrong")


def _run(chosen: argparse.Namespace) -> int:
    from harness.command_run import run_command  # noqa: PLC0415 - heavy: asyncio, numpy, pydantic

    done = run_command(chosen, _tell)
    for line in done.lines:
        print(line)
    if done.exit_code == EXIT_DONE and chosen.strict and not done.valid:
        return EXIT_INVALID
    if done.exit_code == EXIT_DONE and chosen.enforce_slo and not done.slo_met:
        return EXIT_GATE
    return done.exit_code


def _report(chosen: argparse.Namespace) -> int:
    from harness.finish import draw, finish  # noqa: PLC0415 - heavy: numpy, pyarrow

    for folder in chosen.folders:
        finish(folder)
        print(draw(folder))
    return EXIT_DONE


def _validate(chosen: argparse.Namespace) -> int:
    from harness.scenario.loading import check_file  # noqa: PLC0415 - heavy: pydantic

    faults = [line for path in chosen.files for line in check_file(path)]
    for line in faults:
        _tell(line)
    for path in chosen.files if not faults else ():
        print(f"{path}: ok")
    return EXIT_INPUT if faults else EXIT_DONE


def _schema(_chosen: argparse.Namespace) -> int:
    from harness.scenario.schema import schema_text  # noqa: PLC0415 - heavy: pydantic

    print(schema_text(), end="")
    return EXIT_DONE


def _selfcheck(chosen: argparse.Namespace) -> int:
    from harness.command_run import selfcheck_command  # noqa: PLC0415 - heavy: asyncio, numpy

    for line in selfcheck_command((lambda _line: None) if chosen.quiet else _tell):
        print(line)
    return EXIT_DONE


def _doctor(chosen: argparse.Namespace) -> int:
    from harness.command_doctor import doctor_command  # noqa: PLC0415 - only this command looks at the machine

    told = doctor_command(chosen, _tell)
    for line in told.lines:
        print(line)
    return told.exit_code


def _serve_sim(words: list[str]) -> int:
    from harness.command_serve import serve_command  # noqa: PLC0415 - heavy: aiohttp

    return serve_command(
        words, lambda line: print(line, flush=True), lambda line: print(line, file=sys.stderr, flush=True)
    )


_SERVE_SIM = "serve-sim"
_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "report": _report,
    "validate": _validate,
    "schema": _schema,
    "selfcheck": _selfcheck,
    "doctor": _doctor,
}
