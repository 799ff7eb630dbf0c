"""Comparisons in Python: two results against each other, as a value and as a page."""

from collections.abc import Sequence
from pathlib import Path

from harness.api.result import Result
from harness.comparison.comparison import Comparison
from harness.comparison.comparison import compare as compare_sides
from harness.comparison.repeats import Side
from harness.comparison.sides import earlier_runs, read_side
from harness.errors import InputError
from harness.importers import is_foreign, side_of
from harness.messages import current_language, message
from harness.results.store import make_out_folder
from harness.scenario.loader import load_gate

ResultOrPath = Result | str | Path


def compare(
    base: ResultOrPath,
    new: ResultOrPath,
    *,
    gate: "str | Path | None" = None,
    history: "Sequence[str | Path]" = (),
    anyway: bool = False,
    out: "str | Path | None" = None,
) -> Comparison:
    """Whether `new` is better or worse than `base`, and by how much; `exit_code` is 1 where the gate is broken.

    Args:
        base: a result, its folder, a folder of several repeats, or a result file of another tool.
        new: likewise.
        gate: a YAML file with how much worse each measure may be.
        history: folders of earlier results, which show how far two runs of one configuration differ.
        anyway: whether runs that are not alike are compared.
        out: the folder of the page; none is drawn by default.

    Raises:
        HarnessError: where a side is no result, the two are unlike or one, or the gate is faulty.
    """
    paths = [side.folder if isinstance(side, Result) else Path(side) for side in (base, new)]
    sides = [_side(path) for path in paths]
    kind = sides[0].kind
    rules = kind.default_gate if gate is None else kind.gate_of_file(load_gate(Path(gate)), Path(gate))
    if paths[0].resolve() == paths[1].resolve() and not anyway:  # a gate that could never break
        raise InputError(message("cli.same_result", path=str(paths[0])))
    places = (paths[0].parent, paths[1].parent, *map(Path, history))
    earlier = earlier_runs(places, (paths[0], paths[1]), sides[0])
    comparison = compare_sides(sides[0], sides[1], rules, anyway=anyway, earlier=earlier)
    if out is not None:
        draw_comparison(comparison, Path(out))
    return comparison


def compare_turns(base: Side, new: Side) -> Comparison:
    """Two engines that ran in turn: they are unlike on purpose.

    Raises:
        HarnessError: where they share no measured stage.
    """
    return compare_sides(base, new, base.kind.default_gate, anyway=True)


def draw_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write the page of a comparison and its companions in the current language; the page's path.

    Raises:
        InputError: where the folder cannot be made.
    """
    make_out_folder(folder)
    import reports  # noqa: PLC0415 - pandas and matplotlib load only where a page is drawn

    return reports.write_comparison(folder, comparison, current_language())


def _side(path: Path) -> Side:
    return side_of(path) if is_foreign(path) else read_side(path)
