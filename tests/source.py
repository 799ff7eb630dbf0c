"""The code of our rooms, parsed once for all tests that read it."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("harness", "kernels_bench", "reports")


def modules() -> dict[str, Path]:
    """Every module of our rooms by dotted name."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@functools.cache
def tree_of(name: str) -> ast.Module:
    """The tree of a module, parsed when it is first needed: each of several processes runs some of the tests."""
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def trees() -> dict[str, ast.Module]:
    """All trees by dotted name."""
    return {name: tree_of(name) for name in MODULES}


@functools.cache
def nodes_of(tree: ast.AST) -> tuple[ast.AST, ...]:
    """All of a tree's nodes: walked once for all tests that look at them."""
    return tuple(ast.walk(tree))
