"""What a command shows on a terminal of 80 columns at one moment: recorded by a pseudo-terminal and its emulator."""

import fcntl
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pyte

COLUMNS, ROWS = 80, 40
PATIENCE_S = 300.0


def on_terminal(line: str, wanted: "re.Pattern[str]", folder: Path) -> str:
    """The screen once a line of it matches; the command is then ended, as by Ctrl-C."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "PATH": path}
    environment.pop("CI", None)
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    with subprocess.Popen(
        shlex.split(line), stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=environment, start_new_session=True
    ) as process:
        while not any(wanted.search(text) for text in screen.display):
            ready, _, _ = select.select([master], [], [], PATIENCE_S)
            assert ready, "nothing more was written"
            stream.feed(os.read(master, 65536).decode("utf-8", "replace"))
        shown = [text.rstrip() for text in screen.display]
        process.terminate()
        while process.poll() is None:
            if select.select([master], [], [], 0.2)[0]:
                os.read(master, 65536)
    os.close(master)
    os.close(slave)
    return "\n".join([*(text for text in shown if text), ""])
