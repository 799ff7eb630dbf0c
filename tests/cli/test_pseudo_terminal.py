"""`harness run` on a pseudo-terminal: the block while it runs, and the terminal as it was afterwards."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios

import pyte
import pytest

SCENARIO = """\
name: shown
question: What is shown?
engine: {kind: simulator, clock: real, model: Qwen2.5-0.5B}
workload: {kind: synthetic, input_tokens: 16, output_tokens: 64}
load: [{poisson: {rate: 8, duration: 600s}}]
warmup: {requests: 2}
"""
COLUMNS, ROWS = 80, 30
TAKE_TERMINAL = (  # of a new session, so that keys become signals
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}


class _Terminal:
    """A program on a pseudo-terminal of its own, and what a terminal shows of it."""

    def __init__(self, command, **environment):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.modes = termios.tcgetattr(slave)
        self.slave = slave
        self.written = ""
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.Stream(self._screen)
        environment = {**ENVIRONMENT, "TERM": "xterm-256color", **environment}
        command = [sys.executable, "-c", TAKE_TERMINAL, *command]
        files = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **files)

    def read(self):
        """Take in what was written since; whether there may be more."""
        ready, _, _ = select.select([self._master], [], [], 1.0)
        if ready:
            text = os.read(self._master, 65536).decode("utf-8", "replace")
            self.written += text
            self._stream.feed(text)
        return bool(ready) or self.process.poll() is None

    def shown(self):
        """The lines of the screen."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def until(self, pattern):
        """Wait until a line of the screen matches."""
        while not any(re.search(pattern, line) for line in self.shown()):
            assert self.read(), self.shown()

    def press(self, key):
        """Type a key."""
        os.write(self._master, key)

    def end(self):
        """Read to the end; the exit code."""
        while self.read():
            pass
        return self.process.wait()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self.slave)


@pytest.fixture
def terminal(tmp_path):
    """Starts commands on terminals, and ends them."""
    (tmp_path / "s.yaml").write_text(SCENARIO)
    started = []

    def start(*words, **environment):
        run = ["run", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out"), *words]
        started.append(_Terminal([sys.executable, "-m", "harness", *run], **environment))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_run_shows_its_block_and_ctrl_c_leaves_the_terminal_clean(terminal, tmp_path):
    """The stage with its figures while it runs; after Ctrl-C its result, and nothing of the block."""
    run = terminal()
    run.until(r"^requests +offered .* achieved .* [1-9]\d* answered")
    during = run.shown()
    run.press(b"\x03")
    code = run.end()
    after = run.shown()

    assert any(re.match(r"stage 1/1 +poisson 8 req/s, 600 s +SIMULATED$", line) for line in during)
    assert any(re.match(r"(warm-up|measuring) +[━─]+ +\d+ % +\d+:\d\d of 10:0\d$", line) for line in during)
    assert any(re.match(r"output +[\d.,]+ tok/s", line) for line in during)
    assert code == 128 + signal.SIGINT
    assert str(tmp_path / "out" / "report.html") in "".join(after)
    assert not any(re.match(r"(measuring|requests|whole run|engine|now) ", line) for line in after)
    assert termios.tcgetattr(run.slave) == run.modes
    assert "\x1b[?" not in run.written


def test_sigkill_leaves_the_terminal_usable(terminal):
    """Nothing was switched that would have to be switched back."""
    run = terminal()
    run.until(r"^requests ")
    run.process.kill()
    run.end()

    assert termios.tcgetattr(run.slave) == run.modes
    assert "\x1b[?" not in run.written


def test_chinese_and_no_color_are_kept(terminal):
    """The block in Chinese, without a colour."""
    run = terminal("--lang", "zh", NO_COLOR="1")
    run.until(r"^请求 +到达 .* 完成 ")

    assert any(re.match("阶段 1/1 +泊松 8 req/s", line) for line in run.shown())
    assert not re.search(r"\x1b\[[0-9;]*3\dm", run.written)


def test_in_ci_only_lines_appear(terminal):
    """Also where its log is a terminal: no cursor is moved; what the stage came to is a line."""
    run = terminal(CI="true")
    run.until(r"stage 1/1: poisson 8 req/s, 600 s")
    run.press(b"\x03")
    run.end()

    assert "\x1b[J" not in run.written
    assert any(line.startswith("harness: stage 1/1 (poisson 8 req/s): ") for line in run.shown())


def test_quiet_is_quiet(terminal):
    """Neither a block nor lines until the result."""
    run = terminal("--quiet", "--set", "load.0.poisson.duration=1s", "--set", "engine.clock=virtual")
    run.end()

    assert "\x1b[J" not in run.written
    assert "stage 1/1" not in run.written
