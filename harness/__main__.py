"""`python -m harness` and the command `harness`."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until the command listens, as it is still being loaded, Ctrl-C ends it as any program: without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from harness.cli.app import main

if __name__ == "__main__":
    main()
