"""Tune flags: `python examples/tune.py`; a small study on the simulator, in virtual time."""

import shlex
import sys
import tempfile
from pathlib import Path

import harness

STUDY = Path(__file__).parent / "small_study.yaml"


def main(out: str | None = None) -> harness.StudyResult:
    """Search for the best flags and print how to serve with them."""
    result = harness.tune(STUDY, trials=4, out=out or f"{tempfile.mkdtemp()}/study", on_progress=print)
    print(*result.lines, sep="\n")
    print("flags:", dict(result.flags))
    print("command:", shlex.join(result.command))
    print(result.trials().to_string(index=False))
    return result


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]).exit_code)
