"""Compare two versions in CI: `python examples/compare_in_ci.py`; exit code 1 where the new one is worse than allowed.

Here both versions are the simulator, the new one with fewer sequences at a time; in CI they are two servers, measured
in turn on one machine, or a result that was kept and a new one.
"""

import sys
import tempfile
from pathlib import Path

import harness

SCENARIO = Path(__file__).parent / "small.yaml"
GATE = Path(__file__).parent / "gate.yaml"


def main(out: str | None = None) -> int:
    """Measure both versions twice, in turn, print the comparison, and give the exit code for CI."""
    folder = Path(out or tempfile.mkdtemp())
    for repeat, sides in enumerate(("base new", "new base"), 1):
        for side in sides.split():
            slots = {"base": 64, "new": 2}[side]
            changes = {"engine.args.max_num_seqs": slots, "seed": repeat}  # a pair answers the same requests
            harness.run(harness.load_scenario(SCENARIO, set=changes), out=folder / side / str(repeat))
    comparison = harness.compare(folder / "base", folder / "new", gate=GATE, anyway=True, out=folder / "page")
    print(comparison.answer)
    print(folder / "page" / "compare.html")
    return comparison.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
