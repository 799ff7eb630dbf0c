"""Does the code keep the house: layers, cycles, sizes, forbidden imports, one clock?"""

import ast
import functools
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("harness", "kernels_bench", "reports")

# Lower may not import higher; within a layer any direction without cycles.
LAYERS: dict[str, int] = {
    # words and arithmetic: pure, no I/O
    "harness": 0,
    "harness.errors": 0,
    "harness.units": 0,
    "harness.bounds": 0,
    "harness.redaction": 0,
    "harness.reaching": 3,
    "harness.clock": 0,
    "harness.stats": 0,
    "harness.resemblance": 0,
    "harness.distributions": 0,
    "harness.records": 0,
    "harness.inflight": 0,
    "harness.stage_names": 0,
    "harness.results": 1,
    "harness.flow": 1,
    "harness.rounds": 1,
    "harness.steady": 1,
    "harness.members": 1,
    "harness.invariants": 1,
    "harness.client_error": 1,
    "harness.metrics": 1,
    "harness.checks": 1,
    "harness.streams": 1,
    "harness.stalls": 1,
    "harness.interference": 1,
    "harness.slo": 1,
    "harness.doubts": 1,
    "harness.client_checks": 1,
    "harness.token_checks": 1,
    "harness.device_checks": 1,
    "harness.engine_checks": 1,
    "harness.npu_smi": 1,
    "harness.energy": 1,
    "harness.answer": 1,
    "harness.summary": 1,
    "harness.compare": 1,
    "harness.resampling": 1,
    "harness.measures": 1,
    # what to send and when: pure
    "harness.scenario": 1,
    "harness.seeds": 1,
    "harness.inputs": 1,
    "harness.prompts": 2,
    "harness.lexicon": 2,
    "harness.arrivals": 2,
    "harness.lengths": 2,
    "harness.traces": 2,
    "harness.datasets": 2,
    "harness.workloads": 2,
    "harness.payload": 2,
    # the outside world
    "harness.http1": 3,
    "harness.exchange": 3,
    "harness.reading": 3,
    "harness.kernel_stamps": 3,
    "harness.poller": 3,
    "harness.stamped_socket": 3,
    "harness.connection": 3,
    "harness.wire": 3,
    "harness.bodies": 3,
    "harness.counting": 3,
    "harness.events": 3,
    "harness.eventstream": 3,
    "harness.target": 3,
    "harness.sse": 3,
    "harness.spool": 3,
    "harness.ledger": 3,
    "harness.shapes": 1,
    "harness.kernel_shapes": 1,
    "harness.study_shapes": 1,
    "harness.raw_shapes": 1,
    "harness.shaping": 1,
    "harness.parquet": 3,
    "harness.arrays": 3,
    "harness.store": 3,
    "harness.environment": 3,
    "harness.probe": 3,
    "harness.ascend": 3,
    "harness.telemetry": 3,
    "harness.devices": 3,
    # doing it
    "harness.twin": 3,
    "harness.metronome": 3,
    "harness.drafts": 3,
    "harness.load": 4,
    "harness.engines": 4,
    "harness.plan": 4,
    "harness.calls": 4,
    "harness.watching": 5,
    "harness.papers": 6,
    "harness.offline": 6,
    "harness.kernels": 5,
    "harness.kernels.run": 6,
    "harness.doctor": 5,
    "harness.workers": 5,
    "harness.crew": 5,
    "harness.decoding": 4,
    "harness.account": 5,
    "harness.answer_signs": 4,
    "harness.finish": 5,
    "harness.tune": 6,
    "harness.run": 6,
    "harness.exactness": 4,
    "harness.selfcheck": 6,
    "harness.interrupts": 3,
    "harness.progress": 6,
    "harness.command_serve": 6,
    "harness.comparing": 5,
    "harness.foreign": 4,
    "harness.imports_vllm": 4,
    "harness.imports_guidellm": 4,
    "harness.imports": 6,
    "harness.command_run": 7,
    "harness.command_compare": 7,
    "harness.command_against": 7,
    "harness.command_report": 7,
    "harness.command_doctor": 7,
    "harness.command_tune": 7,
    "harness.cli": 8,
    "harness.__main__": 9,
    # rooms of their own, opened lazily by cli and finish
    "reports": 5,
    "kernels_bench": 0,
}
ONLY_IN = {  # library: rooms that may import it
    "aiohttp": ("harness.engines", "harness.twin"),
    "pandas": ("reports",),
    "matplotlib": ("reports",),
    "jinja2": ("reports",),
    "optuna": ("harness.tune",),
    "torch": ("kernels_bench.providers",),
    "torch_npu": ("kernels_bench.providers",),
    "vllm": ("kernels_bench.providers",),
    "rich": ("harness.cli", "harness.progress"),
}
LAZY = {"reports", "kernels_bench"}  # may be imported from anywhere above, inside functions only
PLAIN_BASES = {"Exception", "Protocol", "NamedTuple", "TypedDict", "Struct", "Enum", "IntEnum"}
PARSER_BASES = {"argparse.ArgumentParser"}  # its one hook for faults is a method
PROTOCOL_BASES = {"Protocol", "BufferedProtocol", "asyncio.Protocol", "asyncio.BufferedProtocol"}


def modules() -> dict[str, Path]:
    """Every module of our rooms by dotted name."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


@functools.cache
def nodes_of(tree: ast.AST) -> tuple[ast.AST, ...]:
    """All of a tree's nodes: walked once for all tests that look at them."""
    return tuple(ast.walk(tree))


@functools.cache
def imports_of(tree: ast.AST, *, top_only: bool = False) -> tuple[str, ...]:
    """Dotted names that a module imports; with top_only, those that run when it is loaded."""
    return tuple(_imported(nodes_of(tree) if not top_only else _top_level(tree)))


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                yield dotted if dotted in MODULES else node.module


def _top_level(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue  # read by type checkers, never run
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _top_level(child)


def rank(name: str) -> int | None:
    """Layer of a module: its own, or that of the nearest package in the table."""
    while name:
        if name in LAYERS and (name != "harness" or name == "harness"):
            return LAYERS[name]
        name = name.rpartition(".")[0]
    return None


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods."""
    return (node for node in nodes_of(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_every_module_has_a_layer_of_its_own():
    """A new module is placed in the table on purpose, not by falling through to its package."""
    placed = [n for n in MODULES if n in LAYERS or n.rpartition(".")[0] not in ("harness", "")]

    assert sorted(set(MODULES) - set(placed)) == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downward_only(name):
    """A module imports its own layer and lower ones; reports and kernels_bench only inside functions."""
    own = rank(name)
    bad = []
    for target in imports_of(TREES[name]):
        room = target.split(".")[0]
        if room not in ROOMS or target == "harness" or (room in LAZY and name.split(".")[0] != room):
            continue
        if own is not None and (rank(target) or 0) > own:
            bad.append(target)

    assert bad == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_doors_of_other_rooms_are_opened_lazily(name):
    """Reports and kernels_bench are never imported when the harness is loaded."""
    if name.split(".")[0] in LAZY:
        return
    bad = [target for target in imports_of(TREES[name], top_only=True) if target.split(".")[0] in LAZY]

    assert bad == []


def test_kernels_bench_needs_only_torch_and_the_standard_library():
    """It runs inside the engine's interpreter, where nothing of ours is installed."""
    bad = [
        (name, target)
        for name, tree in TREES.items()
        if name.startswith("kernels_bench")
        for target in imports_of(tree)
        if target.split(".")[0] in {"harness", "reports", "numpy", "pandas", "pydantic", "aiohttp", "pyarrow"}
    ]

    assert bad == []


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_heavy_libraries_stay_in_their_rooms(library):
    """A library that is slow to load or heavy to install is imported only where it belongs."""
    bad = [
        name
        for name, tree in TREES.items()
        if any(target.split(".")[0] == library for target in imports_of(tree))
        and not any(name == room or name.startswith(room + ".") for room in ONLY_IN[library])
    ]

    assert bad == []


def test_there_are_no_import_cycles():
    """No module imports itself through others."""
    graph = {
        name: {t for t in imports_of(tree, top_only=True) if t in MODULES and t != name} for name, tree in TREES.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_functions_are_small():
    """The median function has at most 8 lines and none has over 60."""
    sizes = {(name, f.name): body_lines(f) for name, tree in TREES.items() for f in functions(tree)}
    too_long = {key: size for key, size in sizes.items() if size > 60}

    assert too_long == {}
    assert statistics.median(sizes.values()) <= 8


def test_functions_take_at_most_six_parameters():
    """More parameters than six want a value that groups them."""
    bad = []
    for name, tree in TREES.items():
        for f in functions(tree):
            arguments = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
            count = len([a for a in arguments if a.arg not in ("self", "cls")])
            if count > 6:
                bad.append((name, f.name, count))

    assert bad == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_files_are_small(name):
    """No file has over 350 lines."""
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 350


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_says_what_question_it_answers(name):
    """Every module has a docstring."""
    assert ast.get_docstring(TREES[name])


def test_inheritance_is_for_exceptions_models_and_protocols():
    """Other classes have no bases: functions and composition instead."""
    bases = {
        (name, node.name): [ast.unparse(base) for base in node.bases]
        for name, tree in TREES.items()
        for node in nodes_of(tree)
        if isinstance(node, ast.ClassDef)
    }
    allowed = PLAIN_BASES | PROTOCOL_BASES | PARSER_BASES
    grew = True
    while grew:  # children of allowed classes are allowed
        ours = {node for (_, node), parents in bases.items() if parents and all(_plain(p) in allowed for p in parents)}
        ours |= {node for (_, node), parents in bases.items() if "BaseModel" in parents}
        grew = not ours <= allowed
        allowed |= ours
    bad = {
        key: parents for key, parents in bases.items() if any(_plain(p) not in allowed | {"BaseModel"} for p in parents)
    }

    assert bad == {}


def _plain(base: str) -> str:
    return base.split("[", maxsplit=1)[0].removeprefix("msgspec.").removeprefix("enum.").removeprefix("asyncio.")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_the_monotonic_clock_is_read(name):
    """`time.time` and `datetime.now` occur nowhere but in clock.py."""
    bad = [
        ast.unparse(node)
        for node in nodes_of(TREES[name])
        if isinstance(node, ast.Attribute)
        and ast.unparse(node)
        in {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "datetime.utcnow"}
    ]

    assert bad == [] or name == "harness.clock"


def test_only_the_command_line_prints():
    """Everything else returns lines or writes files; programs of their own print from __main__."""
    printers = {
        "harness.cli",
        "harness.__main__",
        "harness.progress",
        "kernels_bench.__main__",
        "harness.twin.__main__",
    }
    bad = [
        name
        for name, tree in TREES.items()
        for node in nodes_of(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
        and name not in printers
    ]

    assert bad == []


def test_names_say_what_things_are():
    """No file is called helpers, utils, managers, common or misc."""
    vague = {"helpers", "helper", "utils", "util", "manager", "managers", "common", "misc"}

    assert [name for name in MODULES if name.rpartition(".")[2] in vague] == []


def test_nothing_listens_or_calls_beyond_loopback_by_default():
    """No literal of an any-address stands in the code."""
    bad = [name for name, path in MODULES.items() if "0.0.0.0" in path.read_text(encoding="utf-8")]

    assert bad == []
