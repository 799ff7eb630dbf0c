"""The block at the bottom of a terminal, as a terminal emulator shows it."""

import io
import os

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from harness.cli import screen as screens
from harness.cli.screen import Screen, is_live


class _Tty(io.StringIO):
    def isatty(self):
        return True


def _screen(monkeypatch, columns=40, rows=12):
    """A screen on a stream, with a terminal's size that can be set."""
    size = [columns, rows]
    monkeypatch.setattr(Screen, "_size", lambda _self: tuple(size))
    monkeypatch.setattr(Screen, "_in_front", lambda _self: True)
    stream = _Tty()
    return Screen(stream), stream, size


def _emulated(output, columns=40, rows=40):
    terminal = pyte.Screen(columns, rows)
    pyte.Stream(terminal).feed(output.replace("\n", "\r\n"))  # as the terminal's driver does
    return [line.rstrip() for line in terminal.display if line.strip()]


def _texts(*lines):
    return [Text(line) for line in lines]


LINES = st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=39), max_size=5)
STEPS = st.lists(st.one_of(LINES, st.text("abc", min_size=1, max_size=20)), max_size=8)


@given(STEPS)
def test_a_terminal_shows_the_kept_lines_and_the_last_block(steps):
    """Whatever blocks and lines came before, of any height; nothing is left of them at the end."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        screen, stream, _ = _screen(monkeypatch)
        kept, last = [], []
        with screen:
            for step in steps:
                if isinstance(step, str):
                    screen.above(step)
                    kept.append(step)
                else:
                    screen.draw(_texts(*step))
                    last = step
            during = _emulated(stream.getvalue())

    assert during == [*kept, *last]
    assert _emulated(stream.getvalue()) == kept


@given(LINES, LINES, st.integers(20, 40))
def test_a_terminal_that_became_narrower_is_left_clean(first, second, columns):
    """Terminals break the lines of the block again as they shrink: they are counted as they stand then."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        screen, stream, size = _screen(monkeypatch)
        screen.above("kept")
        screen.draw(_texts(*first))
        size[0] = columns
        screen.draw(_texts(*(line[: columns - 1] for line in second)))

    assert _emulated(stream.getvalue(), columns) == ["kept", *(line[: columns - 1] for line in second)]


def test_a_block_higher_than_the_terminal_is_cut(monkeypatch):
    """Its first lines are shown: what is beyond the top could not be drawn over."""
    screen, stream, _ = _screen(monkeypatch, rows=4)
    screen.draw(_texts("1", "2", "3", "4", "5"))
    screen.draw(_texts("a", "b", "c", "d", "e"))

    assert _emulated(stream.getvalue(), rows=4) == ["a", "b", "c"]


def test_a_block_over_a_block_erases_no_whole_screen(monkeypatch):
    """Erased from its first cell, a screen of tmux goes into its history: each drawing would leave a copy there."""
    screen, stream, _ = _screen(monkeypatch)
    with screen:
        screen.draw(_texts("one", "two"))
        screen.draw(_texts("1"))

        assert "A\x1b[J" not in stream.getvalue()
        assert _emulated(stream.getvalue()) == ["1"]


def test_nothing_is_switched_that_would_stay_switched(monkeypatch):
    """No mode is set and the cursor is not hidden: a process that is killed leaves the terminal as it was."""
    screen, stream, _ = _screen(monkeypatch)
    with screen:
        screen.draw([Text("12 %", "green")])
        screen.above("line")

    assert "\x1b[?" not in stream.getvalue()


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch):
    """What is being measured goes on."""
    screen, stream, _ = _screen(monkeypatch)
    stream.close()
    with screen:
        screen.draw(_texts("a"))
        screen.above("b")


def test_a_job_in_the_background_draws_no_block(monkeypatch):
    """Only lines appear; the block comes back with the job."""
    screen, stream, _ = _screen(monkeypatch)
    monkeypatch.setattr(Screen, "_in_front", lambda _self: False)
    screen.draw(_texts("block"))
    screen.above("line")
    behind = _emulated(stream.getvalue())
    monkeypatch.setattr(Screen, "_in_front", lambda _self: True)
    screen.draw(_texts("block"))

    assert behind == ["line"]
    assert _emulated(stream.getvalue()) == ["line", "block"]


def test_after_a_stop_the_block_is_drawn_anew(monkeypatch):
    """What the shell wrote below it stays."""
    screen, stream, _ = _screen(monkeypatch)
    with screen:
        screen.draw(_texts("block"))
        stream.write("[1]+ Stopped\n")
        os.kill(os.getpid(), screens.signal.SIGCONT)
        screen.draw(_texts("block"))

        assert _emulated(stream.getvalue()) == ["block", "[1]+ Stopped", "block"]


@pytest.mark.parametrize(
    ("environment", "live"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "CI": "false"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True),
        ({"TERM": "xterm", "CI": "true"}, False),
        ({"TERM": "xterm", "CI": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_where_a_block_is_drawn(environment, live):
    """On a terminal that can move its cursor, and not in CI; NO_COLOR is about colours."""
    assert is_live(_Tty(), environment) is live
    assert not is_live(io.StringIO(), environment)


def test_no_color_means_none(monkeypatch):
    """The block is drawn, without any."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    screen, stream, _ = _screen(monkeypatch)
    screen.draw([Text("done", "bold green")])

    assert "32m" not in stream.getvalue()
    assert "done" in stream.getvalue()
