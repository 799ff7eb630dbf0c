"""The rules of the house: rooms, cycles, sizes, forbidden imports, words, one clock."""

import ast
import functools
import re
import statistics
from collections.abc import Iterable, Iterator

import pytest

from tests.source import MODULES, ROOT, nodes_of, tree_of, trees

# Lower may not import higher; within a rank any direction without cycles.
RANKS: dict[str, int] = {
    # used by everyone, import no one
    "errors": 0,
    "units": 0,
    "clock": 0,
    "seeds": 0,
    "safety": 0,
    "messages": 0,
    "plugins": 0,
    # pure: arithmetic, and what a scenario says
    "statistics": 1,
    "scenario": 1,
    # what to send, and the files of a result
    "workload": 2,
    "results": 2,
    # sending it, watching, and what the records show
    "client": 3,
    "telemetry": 3,
    "analysis": 3,
    # what serves, and the kernels
    "engines": 4,
    "simulator": 4,
    "kernels": 4,
    "export": 4,
    # whole tasks
    "comparison": 5,
    "importers": 5,
    "execution": 5,
    "tuning": 5,
    "doctor": 5,
    "selfcheck": 5,
    # the public API, over all tasks
    "api": 6,
    # the only room that prints
    "cli": 7,
    "__main__": 8,
}
LOOSE = {"__init__", "__main__", "errors", "units", "clock", "seeds"}  # modules of harness outside a room
MEAN_LINES = 190
PARTICIPLES = {"told", "found", "said", "made", "asked", "one"}
BANNED = re.compile(
    r"\b(doubt|twin|metronome|spool|ledger|crew|lexicon|belief|lesson|papers|whys|takeaway)s?\b", re.IGNORECASE
)
BANNED_BUT: dict[str, tuple[str, ...]] = {  # module: words in names of files and keys that earlier versions wrote, too
    "harness.tuning.simulator_screening": ("twin",),
    "harness.tuning.trial_store": ("twin",),
    "harness.tuning.virtual_evaluation": ("lexicon",),
    "harness.client.request_builder": ("lexicon",),
    "harness.client.journal": ("ledger", "spool"),
    "harness.selfcheck.selfcheck": ("metronome",),
    "harness.execution.client_job": ("lexicon",),
    "harness.results.study": ("twin",),
    "reports.tuning_figures": ("twin",),
    "harness.results.summary_schema": ("doubt", "doubts"),
}

ONLY_IN = {  # library: rooms that may import it
    "aiohttp": ("harness.engines", "harness.simulator"),
    "pandas": ("reports", "harness.results.folder", "harness.api"),
    "matplotlib": ("reports",),
    "jinja2": ("reports",),
    "optuna": ("harness.tuning",),
    "torch": ("kernels_bench.providers",),
    "torch_npu": ("kernels_bench.providers",),
    "vllm": ("kernels_bench.providers",),
    "rich": ("harness.cli",),
}
LAZY = {"reports", "kernels_bench"}  # may be imported from anywhere above, inside functions only
PLAIN_BASES = {"Exception", "Protocol", "NamedTuple", "TypedDict", "Struct", "Enum", "IntEnum"}
PARSER_BASES = {"argparse.ArgumentParser"}  # its one hook for faults is a method
PROTOCOL_BASES = {"Protocol", "BufferedProtocol", "asyncio.Protocol", "asyncio.BufferedProtocol"}


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


def rank(name: str) -> int:
    """Rank of a module's room; the package itself has the lowest."""
    rooms = name.split(".")
    return RANKS[rooms[1]] if rooms[0] == "harness" and len(rooms) > 1 else -1


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods."""
    return (node for node in nodes_of(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_every_module_stands_in_a_room():
    """Nothing lies loose in harness but what everyone uses, and every room has a rank."""
    loose = {path.stem for path in (ROOT / "harness").glob("*.py")}
    rooms = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}

    assert loose == LOOSE
    assert rooms <= set(RANKS)


@pytest.mark.parametrize("name", sorted(n for n in MODULES if n.startswith("harness.")))
def test_imports_run_downward_only(name):
    """A module imports its own rank and lower ones."""
    bad = [
        target
        for target in imports_of(tree_of(name))
        if target.startswith("harness.") and target.split(".")[1] in RANKS and rank(target) > rank(name)
    ]

    assert bad == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_doors_of_other_rooms_are_opened_lazily(name):
    """Reports and kernels_bench are never imported when the harness is loaded."""
    if name.split(".")[0] in LAZY:
        return
    bad = [target for target in imports_of(tree_of(name), top_only=True) if target.split(".")[0] in LAZY]

    assert bad == []


def test_kernels_bench_needs_only_torch_and_the_standard_library():
    """It runs inside the engine's interpreter, where nothing of ours is installed."""
    bad = [
        (name, target)
        for name, tree in trees().items()
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
        for name, tree in trees().items()
        if any(target.split(".")[0] == library for target in imports_of(tree))
        and not any(name == room or name.startswith(room + ".") for room in ONLY_IN[library])
    ]

    assert bad == []


def test_there_are_no_import_cycles():
    """No module imports itself through others."""
    graph = {
        name: {t for t in imports_of(tree, top_only=True) if t in MODULES and t != name}
        for name, tree in trees().items()
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
    sizes = {(name, f.name): body_lines(f) for name, tree in trees().items() for f in functions(tree)}
    too_long = {key: size for key, size in sizes.items() if size > 60}

    assert too_long == {}
    assert statistics.median(sizes.values()) <= 8


def test_functions_take_at_most_six_parameters():
    """More parameters than six want a value that groups them."""
    bad = []
    for name, tree in trees().items():
        for f in functions(tree):
            arguments = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
            count = len([a for a in arguments if a.arg not in ("self", "cls")])
            if count > 6:
                bad.append((name, f.name, count))

    assert bad == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_files_are_small(name):
    """No file has over 400 lines."""
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 400


def test_files_are_full():
    """A file of harness has 150 lines and more on average: nothing is split that belongs together."""
    sizes = [len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items() if "harness" in name]

    assert statistics.mean(sizes) >= MEAN_LINES


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_docstring_states_what_a_module_holds(name):
    """Every module has a docstring, and its first line is no question."""
    document = ast.get_docstring(tree_of(name))

    assert document
    assert not document.splitlines()[0].endswith("?")


def test_no_public_class_name_is_used_twice():
    """One public name, one meaning."""
    names: dict[str, list[str]] = {}
    for module, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                names.setdefault(node.name, []).append(module)
    twice = {name: owners for name, owners in names.items() if len(owners) > 1}

    assert twice == {}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_private_language(name):
    """Words of ours for which the field has words of its own occur in no name, docstring, comment or text."""
    found = {match.group().lower() for match in BANNED.finditer(MODULES[name].read_text(encoding="utf-8"))}

    assert not found - set(BANNED_BUT.get(name, ()))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_names_say_what_they_hold(name):
    """No local or parameter is called by a participle or `one`."""
    bad = {
        node.id if isinstance(node, ast.Name) else node.arg
        for node in nodes_of(tree_of(name))
        if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in PARTICIPLES)
        or (isinstance(node, ast.arg) and node.arg in PARTICIPLES)
    }

    assert bad == set()


def test_every_module_has_tests_or_says_which_reach_it():
    """tests/ROOM/test_MODULE.py, or a line in tests/reached.txt."""
    lines = (ROOT / "tests" / "reached.txt").read_text(encoding="utf-8").splitlines()
    reached = {line.partition(":")[0] for line in lines if ":" in line and not line.startswith("#")}
    lacking = [
        name
        for name, path in MODULES.items()
        if path.name != "__init__.py" and name not in reached and not _has_tests(name)
    ]

    assert lacking == []


def _has_tests(name: str) -> bool:
    package, _, rest = name.partition(".")
    *rooms, module = rest.split(".")
    folder = ROOT / "tests" if package == "harness" else ROOT / "tests" / package
    return folder.joinpath(*rooms, f"test_{module}.py").is_file()


def test_inheritance_is_for_exceptions_models_and_protocols():
    """Other classes have no bases: functions and composition instead."""
    bases = {
        (name, node.name): [ast.unparse(base) for base in node.bases]
        for name, tree in trees().items()
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
        for node in nodes_of(tree_of(name))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node)
        in {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "datetime.utcnow"}
    ]

    assert bad == [] or name == "harness.clock"


def test_only_the_command_line_prints():
    """Everything else returns lines or writes files; programs of their own print from __main__."""
    printers = {
        "harness.cli.app",
        "harness.__main__",
        "harness.cli.terminal",
        "kernels_bench.__main__",
        "harness.simulator.replay",
    }
    bad = [
        name
        for name, tree in trees().items()
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
