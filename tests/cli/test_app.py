"""The command line answers in the language of the user, names the nearest right word, and loads little for --help."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from harness.cli import app
from harness.cli.app import main
from harness.cli.parser import split_language
from harness.cli.terminal import CommandOutcome, aligned
from harness.messages import current_language, message

UNKNOWN_ZH = "harness: 未知命令 'reprot'；是否想写 'report'？\n"


def told(capsys, *words):
    """Exit code and stderr of a command."""
    with pytest.raises(SystemExit) as end:
        main([*words])
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["reprot", "a"], "unknown command 'reprot'; did you mean 'report'?"),
        (["report", "a", "--tracee"], "unknown argument '--tracee' of harness report; did you mean '--trace'?"),
        (["compare", "a", "b", "--gates=x"], "unknown argument '--gates=x' of harness compare; did you mean '--gate'?"),
        (["compare", "a", "b", "c"], "unknown argument 'c' of harness compare; see `harness compare --help`"),
        (["run", "a.yaml", "--frobnicate"], "unknown argument '--frobnicate' of harness run; see `harness run --help`"),
        (["run"], "missing: SCENARIO; see `harness run --help`"),
        (["compare"], "missing: BASE and NEW; see `harness compare --help`"),
        (["run", "chat", "--out"], "argument --out: expected a value; see `harness run --help`"),
        (["run", "--quiet=3", "chat"], "argument --quiet takes no value, got '3'; see `harness run --help`"),
        (["run", "chat", "--seed", "x"], "--seed 'x': expected a whole number"),
        (["run", "chat", "--lang", "fr"], "--lang 'fr': expected en or zh"),
        (["run", "chat", "--lang"], "--lang '': expected en or zh"),
        (["scenarios", "cpy"], "scenarios 'cpy': no such action; did you mean 'copy'?"),
        (["run", "cht"], "cht: no such file, and no scenario of that name; did you mean 'chat'?"),
        (["run", "chat", "--url", "a:1", "--engine", "vllm"],
         "--url names a server that runs; --engine vllm would start one: expected one of the two"),
    ],
)  # fmt: skip
def test_a_mistyped_word_is_told_with_the_nearest_right_one(capsys, words, line):
    """In one line, with the exit code of wrong input."""
    assert told(capsys, *words) == (2, f"harness: {line}\n")


def test_no_command_is_told_with_all_of_them(capsys):
    """Every command of the parser is in the list."""
    code, line = told(capsys)

    assert code == 2
    assert set(line.partition("one of ")[2].strip().split(", ")) == {*app._COMMANDS, "serve-sim", "serve-proxy"}


@pytest.mark.parametrize("words", [("--lang", "zh", "reprot"), ("reprot", "--lang=zh"), ("reprot", "--lang", "zh")])
def test_the_language_stands_before_or_behind_the_command(capsys, words):
    """It is that of every line, and ends with the command."""
    assert told(capsys, *words) == (2, UNKNOWN_ZH)
    assert current_language() == "en"


def test_the_locale_says_the_language_where_the_command_does_not(capsys, monkeypatch):
    """--lang has the last word."""
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")

    assert told(capsys, "reprot") == (2, UNKNOWN_ZH)
    assert told(capsys, "reprot", "--lang", "en")[1].startswith("harness: unknown command")


def test_what_a_command_gives_is_printed_in_its_language(capsys, monkeypatch):
    """Lines for stdout, progress, and lines that explain the exit code; the command knows the language, too."""
    seen = []

    def command(arguments, log):
        seen.append((arguments.lang, arguments.words))
        log(message("cli.scenario_file", path="a.yaml"))
        return CommandOutcome(
            [message("cli.file_ok", path="a.yaml"), "plain"], 4, (message("cli.see_help", command="x"),)
        )

    monkeypatch.setattr("harness.cli.scenarios.validate_command", command)
    with pytest.raises(SystemExit) as end:
        main(["validate", "a.yaml", "--lang", "zh"])

    assert end.value.code == 4
    assert seen == [("zh", ["validate", "a.yaml", "--lang", "zh"])]
    assert capsys.readouterr() == ("a.yaml：正确\nplain\n", "harness: 场景：a.yaml\nharness: 请查看 `x --help`\n")


@pytest.mark.parametrize("command", ["", *app._COMMANDS])
@pytest.mark.parametrize("locale", ["C", "zh_CN.UTF-8"])
def test_help_is_whole_in_both_languages(capsys, monkeypatch, command, locale):
    """Chinese help has no English sentence, neither of ours nor of argparse."""
    monkeypatch.setenv("LC_ALL", locale)
    with pytest.raises(SystemExit) as end:
        main([*filter(None, [command]), "--help"])
    text = capsys.readouterr().out

    assert end.value.code == 0
    assert text.startswith("usage: harness" if locale == "C" else "用法： harness")
    if locale != "C":
        assert re.findall(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}", re.sub(r"`[^`]*`", "", text)) == []


words = st.lists(st.sampled_from(["run", "chat", "--quiet", "--set", "a=b", "--language", "zh"]), max_size=5)


@given(words, st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["en", "zh", "fr"]), st.booleans()), max_size=3))
def test_the_language_is_taken_out_of_any_place(plain, placed):
    """The last of several counts; all other words stay, in their order."""
    groups = [[word] for word in plain]
    for place, name, joined in placed:
        groups.insert(min(place, len(groups)), [f"--lang={name}"] if joined else ["--lang", name])
    given_words = [word for group in groups for word in group]
    languages = [group[-1].removeprefix("--lang=") for group in groups if group[0].partition("=")[0] == "--lang"]

    assert split_language(given_words) == (languages[-1] if languages else None, plain)


def test_help_loads_neither_a_heavy_library_nor_another_catalogue():
    """That is how it answers in a tenth of a second."""
    code = (
        "import sys\nfrom harness.cli.app import main\n"
        "import harness.messages.rendering as rendering\n"
        "read = []\nown = rendering.catalogue\n"
        "rendering.catalogue = lambda language, room: (read.append(room), own(language, room))[1]\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({*read}), sorted({'asyncio', 'numpy', 'pydantic', 'babel', 'rich', 'yaml'} & {*sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert out.splitlines()[-1] == "['cli'] []"


CELLS = st.text(st.sampled_from("ab [/]7%并发"), max_size=6).map(str.strip)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5))
def test_columns_are_aligned_as_a_terminal_shows_them(rows):
    """As wide as its widest cell, two columns off the next; Chinese counts twice, and no markup is read."""
    widths = [max((cell_len(row[column]) for row in rows), default=0) for column in range(3)]

    def padded(cell, width, *, right=False):
        blank = " " * (width - cell_len(cell))
        return blank + cell if right else cell + blank

    assert aligned(rows, right=(1,)) == [
        "  ".join([padded(a, widths[0]), padded(b, widths[1], right=True), padded(c, widths[2])]).rstrip()
        for a, b, c in rows
    ]
