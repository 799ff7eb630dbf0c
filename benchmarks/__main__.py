"""`python -m benchmarks [NAME...]`: measure, and print a table ready for docs/explanation/measured.md."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.closed import closed100, closed1000
from benchmarks.compare import compare
from benchmarks.costs import help_, memory1m, overhead
from benchmarks.gate import gate
from benchmarks.hostile import hostile
from benchmarks.intervals import intervals
from benchmarks.kernels import kernels
from benchmarks.live import live
from benchmarks.numbers import Number, machine, table, wait_for_quiet
from benchmarks.poisson import poisson500
from benchmarks.reporting import report1m, report10k
from benchmarks.simulator import simulator_served, simulator_virtual
from benchmarks.stamps import stamps
from benchmarks.tuning import tuning

BENCHMARKS: dict[str, Callable[[Path], Iterator[Number]]] = {
    "help": help_,
    "overhead": overhead,
    "closed100": closed100,
    "closed1000": closed1000,
    "stamps": stamps,
    "live": live,
    "gate": gate,
    "poisson500": poisson500,
    "memory1m": memory1m,
    "hostile": hostile,
    "report10k": report10k,
    "report1m": report1m,
    "simulator_virtual": simulator_virtual,
    "simulator_served": simulator_served,
    "intervals": intervals,
    "compare": compare,
    "tuning": tuning,
    "kernels": kernels,
}


def main() -> int:
    """Run the benchmarks named, or all; 1 where a number misses its target."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *BENCHMARKS], help=", ".join(BENCHMARKS))
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep scenarios, results and truths there")
    asked = parser.parse_args()
    numbers: list[Number] = []
    with tempfile.TemporaryDirectory(prefix="harness-benchmarks-") as scratch:
        for name in asked.names or BENCHMARKS:
            remark = wait_for_quiet()
            print(f"{name} …{f' ({remark})' if remark else ''}", file=sys.stderr, flush=True)
            numbers += BENCHMARKS[name]((asked.keep or Path(scratch)) / name)
    print(*table(numbers), "", machine(), sep="\n")
    return 0 if all(number.met for number in numbers) else 1


if __name__ == "__main__":
    sys.exit(main())
