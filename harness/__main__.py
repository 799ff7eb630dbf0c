"""`python -m harness` and the command `harness`."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until the command listens, as it is still being loaded, Ctrl-C ends it as any program: without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import os
import sys

from harness.cli import app
from harness.safety.interrupts import was_interrupted


def main() -> None:
    """Run the command, and exit with its code."""
    try:
        app.main()
    except SystemExit as ending:
        if was_interrupted() and isinstance(ending.code, int):
            # Where the interrupt was raised inside exec(), as while a dataclass is loaded, CPython would end itself by
            # SIGINT instead of by this code.
            with contextlib.suppress(OSError, ValueError):  # whoever read it may be gone
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(ending.code)
        raise


if __name__ == "__main__":
    main()
