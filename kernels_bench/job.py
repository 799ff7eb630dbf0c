"""The job: the JSON that a parent process writes, as checked values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from kernels_bench.cases import Case
from kernels_bench.roofline import Limits
from kernels_bench.stopping import Rule

FORMAT = 1
MODES = ("cold", "hot", "graph")


@dataclass(frozen=True, slots=True)
class Job:
    """Cases to run on one provider, and how."""

    cases: tuple[Case, ...]
    provider: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    """For the provider: `device`."""
    paths: tuple[str, ...] = ()
    """Names of paths to run; all that compute the case's phase where empty."""
    modes: tuple[str, ...] = ("cold", "hot")
    seed: int = 0
    rule: Rule = field(default_factory=Rule)
    threads: int = 0
    """Threads of torch on a CPU; 0: its own choice."""
    chips: tuple[tuple[str, Limits], ...] = ()
    """Figures of data sheets, each with the part of a device's name that tells it, as `910B3`."""
    begin: int = 0
    """The first case to run: what came before was done by a process that died."""
    without: tuple[int, ...] = ()
    """Cases to leave out: an earlier process died on them."""
    measured: Limits | None = None
    """What an earlier process of the same run measured, so that all cases are held to the same."""


def job_from(tree: Mapping[str, Any]) -> Job:
    """The job of a parsed JSON document.

    Raises:
        ValueError: in one line, where it is not of this form.
    """
    if tree.get("format") != FORMAT:
        raise ValueError(f"format {tree.get('format')!r}; this version reads {FORMAT}")
    known = {part.name for part in fields(Job)} | {"format"}
    strange = sorted(set(tree) - known)
    if strange:
        raise ValueError(f"unknown keys {', '.join(strange)}")
    values = {name: value for name, value in tree.items() if name != "format"}
    try:
        return Job(**{name: _READERS.get(name, lambda value: value)(value) for name, value in values.items()})
    except (TypeError, KeyError) as fault:
        raise ValueError(f"not a job: {fault}") from None


def tree_of(job: Job) -> dict[str, Any]:
    """The job as plain values for JSON."""
    return {"format": FORMAT, **asdict(job)}


def case_from(tree: Mapping[str, Any]) -> Case:
    """A case from its JSON form."""
    lists = {"query_lens", "kv_lens"}
    values: dict[str, Any] = {name: tuple(value) if name in lists else value for name, value in tree.items()}
    values["labels"] = tuple((name, value) for name, value in tree.get("labels", ()))
    return Case(**values)


def _limits(tree: Mapping[str, Any] | None) -> Limits | None:
    return None if tree is None else Limits(**tree)


def _texts(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(values)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "cases": lambda rows: tuple(case_from(row) for row in rows),
    "paths": _texts,
    "modes": _texts,
    "without": tuple,
    "rule": lambda tree: Rule(**tree),
    "chips": lambda rows: tuple((name, Limits(**tree)) for name, tree in rows),
    "measured": _limits,
}
