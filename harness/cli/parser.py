"""The parser of `harness`: each command with its arguments, in the language of the user.

argparse, because it answers `--help` in a tenth of a second, which no library on top of it does.
"""

import argparse
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness import __version__
from harness.errors import InputError, nearest, suggestion
from harness.messages import LANGUAGES, Message, current_language, localized, message
from harness.messages.rendering import ENGLISH

SERVE_SIM, SERVE_PROXY = "serve-sim", "serve-proxy"
LANG = "--lang"
_INDENT = 24  # columns before the help of an argument
# argparse's own errors (its templates are the same in Python 3.10 to 3.14), and ours for them
_ARGPARSE: tuple[tuple[re.Pattern[str], Callable[..., Message]], ...] = (
    (
        re.compile(r"the following arguments are required: (.+)"),
        lambda names: message("cli.arguments_missing", names=names.split(", ")),
    ),
    (
        re.compile(r"argument ([^:]+): expected .*argument.*"),
        lambda name: message("cli.value_missing", argument=name),
    ),
    (
        re.compile(r"argument ([^:]+): ignored explicit argument (.+)"),
        lambda name, value: message("cli.value_unexpected", argument=name, value=value.strip("'")),
    ),
)


def split_language(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The last value of --lang ("" where it has none), and the words without it: it stands anywhere."""
    requested, rest = None, list(words)
    while (place := next((n for n, word in enumerate(rest) if word.partition("=")[0] == LANG), None)) is not None:
        word = rest.pop(place)
        requested = word.partition("=")[2] if "=" in word else rest.pop(place) if place < len(rest) else ""
    return requested, rest


def parse(words: Sequence[str], requested: str | None, names: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line without --lang; `lang` of the result is the user's language.

    Raises:
        InputError: where a word is unknown, missing or no value, with the nearest right one.
    """
    if requested is not None and requested not in LANGUAGES:
        raise InputError(message("cli.unknown_language", language=requested, languages=LANGUAGES))
    if not words:
        raise InputError(message("cli.command_missing", names=names))
    if not words[0].startswith("-") and words[0] not in names:
        raise InputError(message("cli.unknown_command", word=words[0], hint=suggestion(words[0], names)))
    arguments, unknown = _parser().parse_known_args(words)
    if unknown:
        hint = _meant(unknown[0], arguments.parser)
        raise InputError(
            message("cli.unknown_argument", word=unknown[0], command=f"harness {arguments.command}", hint=hint)
        )
    arguments.lang = current_language()
    return arguments


def _meant(word: str, parser: argparse.ArgumentParser) -> Message:
    """The flag that a mistyped one most likely meant, or where they are listed."""
    flags = re.findall(r"--([a-z-]+)", parser.format_usage()) if word.startswith("-") else []
    near = nearest(word.strip("-").partition("=")[0], flags)
    if near is None:
        return message("cli.see_help", command=parser.prog)
    return message("errors.did_you_mean", near=f"--{near}")


class _Parser(argparse.ArgumentParser):
    """argparse with errors in one line, as all others, and its own few words from the catalogue."""

    def error(self, message: str) -> Any:
        hint = _see_help(self.prog)
        for pattern, ours in _ARGPARSE:
            match = pattern.fullmatch(message)
            if match is not None:
                raise InputError(_with_hint(ours(*match.groups()), hint))
        raise InputError(_with_hint(message, hint))

    def format_usage(self) -> str:
        return _translated(super().format_usage())

    def format_help(self) -> str:
        return _translated(super().format_help())


def _see_help(command: str) -> Message:
    return message("cli.see_help", command=command)


def _with_hint(reason: Message | str, hint: Message) -> Message:
    return message("cli.usage_error", reason=reason, hint=hint)


def _translated(usage: str) -> str:
    return f"{localized('cli.usage')} {usage.removeprefix('usage: ')}"


def _formatter(prog: str) -> argparse.HelpFormatter:
    """As wide as the terminal; argparse counts letters, and a Chinese one takes two columns."""
    columns = shutil.get_terminal_size().columns - 2
    if current_language() != ENGLISH:
        columns = _INDENT + (columns - _INDENT) // 2
    return argparse.HelpFormatter(prog, max_help_position=_INDENT, width=columns)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="harness",
        description=localized("cli.description"),
        allow_abbrev=False,
        add_help=False,
        formatter_class=_formatter,
    )
    options = _options(parser)
    version = f"npu-harness {__version__}"
    options.add_argument("--version", action="version", version=version, help=localized("cli.version"))
    commands = parser.add_subparsers(
        title=localized("cli.commands"), dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )
    for add in (_add_run, _add_watch, _add_report, _add_compare, _add_tune, _add_scenarios, _add_validate):
        add(commands)
    _command(commands, "schema", localized("cli.schema"))
    _, options = _command(commands, "selfcheck", localized("cli.selfcheck"))
    _add_quiet(options)
    _add_doctor(commands)
    commands.add_parser(SERVE_SIM, add_help=False, help=localized("cli.serve_sim"))
    commands.add_parser(SERVE_PROXY, add_help=False, help=localized("cli.serve_proxy"))
    return parser


def _options(parser: argparse.ArgumentParser) -> Any:
    """The group of a parser's options, with --help and --lang in it."""
    options = parser.add_argument_group(localized("cli.options"))
    options.add_argument("-h", "--help", action="help", help=localized("cli.help"))
    options.add_argument(LANG, metavar="{en,zh}", help=localized("cli.lang"))
    return options


def _command(commands: Any, name: str, summary: str, description: str | None = None) -> tuple[Any, Any]:
    """A command: the groups of its positional arguments and of its options."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description or summary,
        add_help=False,
        formatter_class=_formatter,
    )
    parser.set_defaults(parser=parser)
    return parser.add_argument_group(localized("cli.positionals")), _options(parser)


def _add_run(commands: Any) -> None:
    positionals, options = _command(commands, "run", localized("cli.run"))
    positionals.add_argument("scenario", metavar="SCENARIO", help=localized("cli.run_scenario"))
    options.add_argument("--url", help=localized("cli.run_url"))
    options.add_argument("--model", help=localized("cli.run_model"))
    options.add_argument("--engine", metavar="KIND", help=localized("cli.run_engine"))
    _add_overrides(options, localized("cli.run_set"))
    _add_out(options, localized("cli.run_out"))
    options.add_argument("--seed", type=_whole("--seed"), metavar="N", help=localized("cli.run_seed"))
    options.add_argument("--repeats", type=_whole("--repeats"), metavar="N", help=localized("cli.run_repeats"))
    options.add_argument(
        "--against", metavar="KEY=VALUE", action="append", default=[], help=localized("cli.run_against")
    )
    _add_trace(options)
    _add_export(options)
    _add_quiet(options)
    _add_warnings(options)
    options.add_argument("--strict", action="store_true", help=localized("cli.run_strict"))
    options.add_argument("--enforce-slo", action="store_true", help=localized("cli.run_enforce_slo"))


def _add_watch(commands: Any) -> None:
    positionals, options = _command(commands, "watch", localized("cli.watch"), localized("cli.watch_description"))
    positionals.add_argument("folder", nargs="?", metavar="DIR", type=Path, help=localized("cli.watch_folder"))
    _add_warnings(options)


def _add_report(commands: Any) -> None:
    positionals, options = _command(commands, "report", localized("cli.report"))
    positionals.add_argument("folders", nargs="+", metavar="DIR", type=Path, help=localized("cli.report_folders"))
    _add_trace(options)
    _add_export(options)


def _add_compare(commands: Any) -> None:
    positionals, options = _command(commands, "compare", localized("cli.compare"), localized("cli.compare_description"))
    positionals.add_argument("base", metavar="BASE", type=Path, help=localized("cli.compare_base"))
    positionals.add_argument("new", metavar="NEW", type=Path, help=localized("cli.compare_new"))
    options.add_argument("--gate", metavar="RULES.yaml", type=Path, help=localized("cli.compare_gate"))
    options.add_argument(
        "--history", metavar="DIR", type=Path, action="append", default=[], help=localized("cli.compare_history")
    )
    options.add_argument("--anyway", action="store_true", help=localized("cli.compare_anyway"))
    _add_out(options, localized("cli.compare_out"))


def _add_tune(commands: Any) -> None:
    positionals, options = _command(commands, "tune", localized("cli.tune"))
    positionals.add_argument("study", metavar="STUDY", nargs="?", help=localized("cli.tune_study"))
    options.add_argument("--trials", type=_whole("--trials"), metavar="N", help=localized("cli.tune_trials"))
    options.add_argument("--resume", action="store_true", help=localized("cli.tune_resume"))
    _add_overrides(options, localized("cli.tune_set"))
    _add_out(options, localized("cli.run_out"))
    options.add_argument("--storage", metavar="URL", help=localized("cli.tune_storage"))
    options.add_argument("--seed", type=_whole("--seed"), metavar="N", help=localized("cli.tune_seed"))
    _add_export(options)
    _add_quiet(options)


def _add_scenarios(commands: Any) -> None:
    positionals, _ = _command(commands, "scenarios", localized("cli.scenarios"), localized("cli.scenarios_description"))
    positionals.add_argument("action", metavar="copy", nargs="?", help=localized("cli.scenarios_copy"))
    positionals.add_argument("name", metavar="NAME", nargs="?", help=localized("cli.scenarios_name"))
    positionals.add_argument("folder", metavar="DIR", nargs="?", type=Path, help=localized("cli.scenarios_folder"))


def _add_validate(commands: Any) -> None:
    positionals, _ = _command(commands, "validate", localized("cli.validate"))
    positionals.add_argument("files", nargs="+", metavar="FILE", help=localized("cli.validate_files"))


def _add_doctor(commands: Any) -> None:
    _, options = _command(commands, "doctor", localized("cli.doctor"), localized("cli.doctor_description"))
    options.add_argument("--python", metavar="PATH", help=localized("cli.doctor_python"))
    options.add_argument("--generate", metavar="MODEL", help=localized("cli.doctor_generate"))
    _add_overrides(options, localized("cli.doctor_set"))
    options.add_argument("--strict", action="store_true", help=localized("cli.doctor_strict"))


def _add_overrides(options: Any, words: str) -> None:
    options.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides", help=words)


def _add_out(options: Any, words: str) -> None:
    options.add_argument("--out", metavar="DIR", type=Path, help=words)


def _add_trace(options: Any) -> None:
    options.add_argument("--trace", action="store_true", help=localized("cli.trace"))


def _add_quiet(options: Any) -> None:
    options.add_argument("--quiet", action="store_true", help=localized("cli.quiet"))


def _add_export(options: Any) -> None:
    options.add_argument(
        "--export", metavar="TARGET[=ADDRESS]", action="append", default=[], help=localized("cli.export")
    )


def _add_warnings(options: Any) -> None:
    options.add_argument("--warnings", action="store_true", help=localized("cli.all_warnings"))


def _whole(flag: str) -> Callable[[str], int]:
    """A reader of whole numbers that names its flag where there is none."""
    return partial(_read_whole, flag)


def _read_whole(flag: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise InputError(message("cli.not_whole", argument=flag, word=word)) from None
