"""Replays traces of requests through the simulated scheduler.

`python -m harness.simulator TRACE.json...`: a JSON line a step, see `replay`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import HarnessError
from harness.simulator.replay import read_trace, replay


def main(arguments: Sequence[str]) -> int:
    """Print one JSON line a step, and `--` after each of several files; the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m harness.simulator TRACE.json...", file=sys.stderr)  # noqa: T201 - a program of its own
        return 0 if arguments else 2
    try:
        for path in arguments:
            for line in replay(read_trace(Path(path))):
                print(json.dumps(line))  # noqa: T201 - a program of its own
            if len(arguments) > 1:
                print("--")  # noqa: T201 - a program of its own
    except HarnessError as error:
        print(*error.lines, sep="\n", file=sys.stderr)  # noqa: T201 - a program of its own
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
