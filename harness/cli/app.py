"""What did the user ask for? Parse, make one call, print: nothing else prints.

Results go to stdout, progress and faults to stderr, one line a fault. Everything heavy is
imported by the command that needs it, so that `harness --help` answers at once.
"""

import argparse
import contextlib
import re
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
    nearest,
    suggestion,
)  # fmt: skip
from harness.safety import interrupts, redaction


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of `harness`; exits with the code that the outcome has."""
    words = list(sys.argv[1:] if argv is None else argv)
    redaction.know_environment()
    try:
        with interrupts.listening():
            code = _obey(words)
    except HarnessError as fault:
        for line in fault.lines:
            _tell(line)
        code = fault.exit_code
    except KeyboardInterrupt:
        _tell(f"ended by {interrupts.heard()}")
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has had enough
        sys.stderr.close()
        code = EXIT_DONE
    raise SystemExit(interrupts.exit_code(code))


def _obey(words: list[str]) -> int:
    parser = _parser()
    names = (*_COMMANDS, _SERVE_SIM)
    if words and not words[0].startswith("-") and words[0] not in names:
        raise InputError(f"unknown command {words[0]!r}; {suggestion(words[0], names)}")
    if words[:1] == [_SERVE_SIM]:  # any flag of `vllm serve` may follow, so this command reads its own
        return _serve_sim(words[1:])
    chosen, unknown = parser.parse_known_args(words)
    if unknown:
        raise InputError(
            f"unknown argument {unknown[0]!r} of harness {chosen.command}; {_meant(unknown[0], chosen.own)}"
        )
    chosen.words = words
    return _COMMANDS[chosen.command](chosen)


def _meant(word: str, parser: argparse.ArgumentParser) -> str:
    """The flag that a mistyped one most likely meant, or where they are listed."""
    flags = re.findall(r"--([a-z-]+)", parser.format_usage()) if word.startswith("-") else []
    near = nearest(word.strip("-").partition("=")[0], flags)
    return f"did you mean '--{near}'?" if near else f"see `{parser.prog} --help`"


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone must not end what is being measured
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
    _add_report(commands)
    _add_compare(commands)
    _add_tune(commands)
    validate = commands.add_parser(
        "validate", help="check scenario and study files; every fault with file, line and key"
    )
    validate.add_argument("files", nargs="+", metavar="FILE", type=Path)
    commands.add_parser("schema", help="print the JSON Schema of scenario and study files")
    selfcheck = commands.add_parser("selfcheck", help="how exact this client is on this machine: its floor and ceiling")
    selfcheck.add_argument("--quiet", action="store_true", help="no progress")
    _add_doctor(commands)
    commands.add_parser(
        _SERVE_SIM,
        add_help=False,
        help="the embedded engine alone, as an OpenAI-compatible server; takes flags of `vllm serve`",
    )
    for command in commands.choices.values():
        command.set_defaults(own=command)
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
    run.add_argument("--repeats", type=int, metavar="N", help="override how many times the stages are run")
    run.add_argument(
        "--against",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="run two engines in turn (A B B A) and compare them: the second differs by this key of `engine`, or is "
        "of this kind, or serves at this address",
    )
    _add_language(run)
    _add_trace(run)
    run.add_argument("--quiet", action="store_true", help="no progress")
    run.add_argument("--strict", action="store_true", help="exit 4 where the result is not valid")
    run.add_argument("--enforce-slo", action="store_true", help="exit 1 where a stage misses the scenario's SLO")


def _add_language(command: Any) -> None:
    command.add_argument("--lang", choices=("en", "zh"), default="en", help="language of the page: en or zh")


def _add_trace(command: Any) -> None:
    command.add_argument("--trace", action="store_true", help="also write trace.json, for Perfetto or chrome://tracing")


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="draw the page of results again, without any load; of several also an index of their history",
        description="DIR is a result folder, or a result file of `vllm bench serve` or guidellm.",
    )
    report.add_argument("folders", nargs="+", metavar="DIR", type=Path)
    _add_language(report)
    _add_trace(report)


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="better, worse or no difference shown; exits with 1 on a regression",
        description="BASE and NEW are result folders, folders that hold several repeats each, or result files of "
        "`vllm bench serve` or guidellm.",
    )
    compare.add_argument("base", metavar="BASE", type=Path)
    compare.add_argument("new", metavar="NEW", type=Path)
    compare.add_argument("--gate", metavar="RULES.yaml", type=Path, help="how much worse each measure may be")
    compare.add_argument(
        "--history",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="a folder of earlier results, which tell how far two runs differ (beside the folders that hold the two)",
    )
    compare.add_argument("--anyway", action="store_true", help="compare runs that are not alike, and say so")
    compare.add_argument(
        "--out", metavar="DIR", type=Path, help="folder of the page (default: results/compare-NAME-TIME)"
    )
    _add_language(compare)


def _add_tune(commands: Any) -> None:
    tune = commands.add_parser(
        "tune", help="run a study file: the best flags under an SLO, found with few engine starts"
    )
    tune.add_argument("study", metavar="STUDY.yaml", type=Path, nargs="?", help="(default: scenarios/tune.yaml)")
    tune.add_argument("--trials", type=int, metavar="N", help="how many trials, the default configuration included")
    tune.add_argument("--resume", action="store_true", help="go on with a study that was interrupted or killed")
    tune.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override a key of the study, such as engine.args.max_model_len=8192",
    )
    tune.add_argument("--out", metavar="DIR", type=Path, help="result folder (default: results/NAME-TIME)")
    tune.add_argument("--storage", metavar="URL", help="share the study, such as postgresql://user@host/database")
    tune.add_argument("--seed", type=int, help="override the study's seed")
    _add_language(tune)
    tune.add_argument("--quiet", action="store_true", help="no progress")


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
    if chosen.against:
        return _against(chosen)
    from harness.cli.run import run_command  # noqa: PLC0415 - heavy: asyncio, numpy, pydantic

    done = run_command(chosen, _tell)
    for line in done.lines:
        print(line)
    if done.exit_code == EXIT_DONE and chosen.strict and not done.valid:
        return EXIT_INVALID
    if done.exit_code == EXIT_DONE and chosen.enforce_slo and not done.slo_met:
        return EXIT_GATE
    return done.exit_code


def _against(chosen: argparse.Namespace) -> int:
    from harness.cli.against import against_command  # noqa: PLC0415 - heavy: asyncio, numpy, pydantic

    done = against_command(chosen, _tell)
    for line in done.lines:
        print(line)
    for line in done.faults:
        _tell(line)
    return done.exit_code


def _tune(chosen: argparse.Namespace) -> int:
    from harness.cli.tune import tune_command  # noqa: PLC0415 - heavy: optuna

    tuned = tune_command(chosen, _tell)
    for line in tuned.lines:
        print(line)
    return tuned.exit_code


def _report(chosen: argparse.Namespace) -> int:
    from harness.cli.report import report_command  # noqa: PLC0415 - heavy: numpy, pyarrow

    for line in report_command(chosen):
        print(line)
    return EXIT_DONE


def _compare(chosen: argparse.Namespace) -> int:
    from harness.cli.compare import compare_command  # noqa: PLC0415 - heavy: numpy, pyarrow, pydantic

    found = compare_command(chosen)
    for line in found.lines:
        print(line)
    for line in found.faults:
        _tell(line)
    return found.exit_code


def _validate(chosen: argparse.Namespace) -> int:
    from harness.tuning.study_loader import check_any  # noqa: PLC0415 - heavy: pydantic

    faults = [line for path in chosen.files for line in check_any(path)]
    for line in faults:
        _tell(line)
    for path in chosen.files if not faults else ():
        print(f"{path}: ok")
    return EXIT_INPUT if faults else EXIT_DONE


def _schema(_chosen: argparse.Namespace) -> int:
    from harness.scenario.json_schema import schema_text  # noqa: PLC0415 - heavy: pydantic

    print(schema_text(), end="")
    return EXIT_DONE


def _selfcheck(chosen: argparse.Namespace) -> int:
    from harness.cli.run import selfcheck_command  # noqa: PLC0415 - heavy: asyncio, numpy

    for line in selfcheck_command((lambda _line: None) if chosen.quiet else _tell):
        print(line)
    return EXIT_DONE


def _doctor(chosen: argparse.Namespace) -> int:
    from harness.cli.doctor import doctor_command  # noqa: PLC0415 - only this command looks at the machine

    told = doctor_command(chosen, _tell)
    for line in told.lines:
        print(line)
    return told.exit_code


def _serve_sim(words: list[str]) -> int:
    from harness.cli.serve_sim import serve_command  # noqa: PLC0415 - heavy: aiohttp

    return serve_command(
        words, lambda line: print(line, flush=True), lambda line: print(line, file=sys.stderr, flush=True)
    )


_SERVE_SIM = "serve-sim"
_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "tune": _tune,
    "report": _report,
    "compare": _compare,
    "validate": _validate,
    "schema": _schema,
    "selfcheck": _selfcheck,
    "doctor": _doctor,
}
