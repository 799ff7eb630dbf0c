"""Does the command line name the nearest right answer?"""

import pytest

from harness.cli.app import main


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
    ],
)
def test_a_mistyped_word_is_told_with_the_nearest_right_one(capsys, words, line):
    """In one line, with the exit code of wrong input."""
    assert told(capsys, *words) == (2, f"harness: {line}\n")
