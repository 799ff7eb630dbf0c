"""Run a coroutine in virtual time.

Ten thousand requests over an hour of virtual time take a fraction of a second. Nothing real may
be awaited on it: with no timer left and nothing ready, the test has hung, and is told so.
"""

from harness.simulator.virtual_loop import virtual_loop


def run_virtually(main):
    """Run a coroutine function to its end in virtual time."""
    loop = virtual_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()
