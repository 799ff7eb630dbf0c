"""Reading scenario, study and gate files, with overrides: a checked value, or every error with its place."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.errors import ScenarioError, nearest
from harness.messages import Message, message
from harness.scenario.base import FileModel
from harness.scenario.cross_checks import faults_between, scenario_warnings
from harness.scenario.engine import Engine
from harness.scenario.error_messages import Fault, KeyPath, dotted, faults_of, show
from harness.scenario.flags import flag_name
from harness.scenario.gate import Gate
from harness.scenario.models import Scenario
from harness.scenario.processes import holders_of
from harness.scenario.study import STUDY_KEYS, Study
from harness.scenario.yaml_document import (
    MOST_CHARACTERS,
    Override,
    ParsedYaml,
    apply_override,
    parse_override,
    read_value,
)

_MOST_BYTES = 4 * MOST_CHARACTERS
PartOf = TypeVar("PartOf", bound=FileModel)


@dataclass(frozen=True, slots=True)
class LoadedScenario:
    """A checked scenario, and what it was read from.

    `text` and `sha256` are those of the file, `overrides` as they were given; `places` are file and line
    (or the flag of the command line) by the path of a value.
    """

    scenario: Scenario
    text: str
    sha256: str
    path: Path
    overrides: tuple[str, ...]
    places: Mapping[KeyPath, str] = field(default_factory=dict)

    def located(self, fault: Message) -> Message:
        """A fault, such as `engine.args.block_size: ...`, behind the place where that value stands."""
        place = self.place_of(fault)
        return fault if place is None else message("scenario.at_place", place=place, fault=fault)

    def place_of(self, fault: Message) -> str | None:
        """Where the flag of a fault stands, None where that is no flag of the file; a process's may be of its role."""
        process, reason = fault.parameters.get("name"), fault.parameters.get("reason")
        of_process = fault.code == "engines.of_process" and isinstance(reason, Message)
        name = str(reason if of_process else fault).partition(": ")[0]
        if not name.startswith("engine.args."):
            return None
        holders = holders_of(self.scenario.engine, str(process)) if of_process else [("engine",)]
        paths = [(*holder, "args", name.removeprefix("engine.args.")) for holder in holders]
        return next((self.places[path] for path in paths if path in self.places), None)

    @property
    def warnings(self) -> list[Message]:
        """What can be run but is hardly meant, each behind the place where it stands, in the order of the file."""
        document = Document(self.path, self.text, self.sha256, {}, self.places)
        return _located(scenario_warnings(self.scenario), document)

    def file(self, name: str) -> Path:
        """A file that the scenario names, looked up from the scenario's own folder."""
        return self.path.parent / name


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file of keys and values, and where each value stands: `places` are file and line by path."""

    path: Path
    text: str
    sha256: str
    tree: dict[str, Any]
    places: Mapping[KeyPath, str]

    def refuse(self, faults: Sequence[Fault]) -> None:
        """Raise a ScenarioError with a line for each fault, where there is one."""
        _refuse(_located(faults, self))


@dataclass(frozen=True, slots=True)
class LoadedStudy:
    """A checked study, and the file that it was read from."""

    study: Study
    document: Document
    overrides: tuple[str, ...]

    def file(self, name: str) -> Path:
        """A file that the study names, looked up from the study's own folder."""
        return self.document.path.parent / name


def read_document(path: Path, overrides: Sequence[str], flags: Sequence[Override], kind: str) -> Document:
    """A file's keys and values with the overrides in place; `kind` is what it should hold: scenario, study or gate.

    Raises:
        ScenarioError: with one line for each fault.
    """
    raw = _bytes(path, kind)
    text = _decoded(raw, path)
    reading = read_value(text)
    tree = _mapping(reading, path, kind)
    places = {_as_read(spot): f"{path}:{mark.line}" for spot, mark in reading.marks.items()}
    changes = [*(parse_override(override) for override in overrides), *flags]
    _refuse([*_applied(changes, tree, places)])
    return Document(path, text, hashlib.sha256(raw).hexdigest(), tree, places)


def load_study(path: Path, overrides: Sequence[str] = (), flags: Sequence[Override] = ()) -> LoadedStudy:
    """The study of a file, with each `KEY=VALUE` of `overrides` in place, and then the `flags`.

    Its scenarios are not opened here; see harness.tuning.study_loader.

    Raises:
        ScenarioError: with one line for each fault.
    """
    document = read_document(path, overrides, flags, STUDY)
    return LoadedStudy(validated(Study, document), document, tuple(overrides))


def load_scenario(path: Path, overrides: Sequence[str] = (), flags: Sequence[Override] = ()) -> LoadedScenario:
    """The scenario of a file, with each `KEY=VALUE` of `overrides` in place, and then the `flags`.

    `flags` are what other flags of a command line mean for the scenario, such as
    `Override(("engine", "url"), url, f"--url {url}")`; a fault in one names it by its `place`.

    Raises:
        ScenarioError: with one line for each fault.
    """
    document = read_document(path, overrides, flags, SCENARIO)
    if is_study(document):
        line = document.places[next((key,) for key in STUDY_KEYS if key in document.tree)]
        raise ScenarioError(message("scenario.is_a_study", place=line, path=str(path)))
    scenario = validated(Scenario, document)
    document.refuse(faults_between(scenario, path.parent))
    return LoadedScenario(scenario, document.text, document.sha256, path, tuple(overrides), document.places)


def load_gate(path: Path) -> Gate:
    """The gate of a file.

    Raises:
        ScenarioError: with one line for each fault.
    """
    return validated(Gate, read_document(path, (), (), GATE))


def is_study(document: Document) -> bool:
    """Whether a file asks for the best configuration rather than for one run."""
    return "scenario" in document.tree or {"space", "objective"} <= document.tree.keys()


def is_gate(path: Path) -> bool:
    """Whether a file is the rules of a gate."""
    return "gate" in read_document(path, (), (), SCENARIO).tree


def check_file(path: Path) -> list[str]:
    """A line for each fault of a scenario, study or gate file, in the current language; none where it can be used."""
    try:
        document = read_document(path, (), (), SCENARIO)
        if is_study(document):
            load_study(path)
        elif "gate" in document.tree:
            load_gate(path)
        else:
            load_scenario(path)
    except ScenarioError as error:
        return list(error.localized_lines())
    return []


def engine_of_file(path: Path) -> Engine | None:
    """The engine of a scenario file without faults; None of a study or a gate."""
    document = read_document(path, (), (), SCENARIO)
    return None if is_study(document) or "gate" in document.tree else load_scenario(path).scenario.engine


def _refuse(reasons: Sequence[Message | str]) -> None:
    if reasons:
        raise ScenarioError(*reasons)


def _bytes(path: Path, kind: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES + 1)  # no more than shows that it is too long
    except FileNotFoundError:
        raise ScenarioError(message("scenario.no_such_file", path=str(path), hint=_near_file(path, kind))) from None
    except IsADirectoryError:
        raise ScenarioError(message("scenario.is_a_folder", path=str(path))) from None
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise ScenarioError(message("scenario.cannot_be_read", path=str(path), reason=reason)) from None


def _near_file(path: Path, kind: str) -> Message:
    folder = path.parent if path.parent.is_dir() else Path()
    near = nearest(path.stem, [file.stem for file in sorted(folder.glob("*.y*ml"))])
    if near is None:
        return _EXPECTED[kind][2]
    return message("errors.did_you_mean", near=f"{folder / near}.yaml")


def _decoded(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ScenarioError(message("scenario.not_utf8", place=f"{path}:{line}")) from None


SCENARIO, STUDY, GATE = "scenario", "study", "gate"
_EXPECTED = {  # of a file that is empty, of one that is no mapping, and of none
    SCENARIO: (
        message("scenario.a_scenario"),
        message("scenario.mapping_of_scenario"),
        message("scenario.expected_scenario_file"),
    ),
    STUDY: (
        message("scenario.a_study"),
        message("scenario.mapping_of_study"),
        message("scenario.expected_study_file"),
    ),
    GATE: (
        message("scenario.a_gate"),
        message("scenario.mapping_of_gate"),
        message("scenario.expected_gate_file"),
    ),
}


def _mapping(reading: ParsedYaml, path: Path, kind: str) -> dict[str, Any]:
    """The file's keys and values, where it is YAML and a mapping at all."""
    _refuse([_at(f"{path}:{mark.line}", fault) for mark, fault in reading.faults])
    if reading.value is None:
        raise ScenarioError(message("scenario.file_empty", path=str(path), expected=_EXPECTED[kind][0]))
    if not isinstance(reading.value, dict):
        reason = message("scenario.got", reason=_EXPECTED[kind][1], found=show(reading.value))
        raise ScenarioError(message("scenario.at_place", place=f"{path}:1", fault=reason))
    return reading.value


def _as_read(spot: KeyPath) -> KeyPath:
    """A path as the models know it: flags of the engine and its processes in snake case."""
    if spot[:1] != ("engine",) or "args" not in spot[1:4]:
        return spot
    flag = spot.index("args") + 1
    return (*spot[:flag], *(flag_name(str(step)) for step in spot[flag : flag + 1]), *spot[flag + 1 :])


def _applied(changes: Sequence[Override | Fault], tree: Any, places: dict[KeyPath, str]) -> list[Message | str]:
    """The faults of putting each override into the tree; notes in `places` which values came from one."""
    reasons: list[Message | str] = []
    for change in changes:
        fault = change if isinstance(change, Fault) else apply_override(tree, change)
        if fault is not None:
            reasons.append(fault.reason)
        elif isinstance(change, Override):
            _move(places, change)
    return reasons


def _move(places: dict[KeyPath, str], change: Override) -> None:
    path = _as_read(change.path)
    for spot in [spot for spot in places if spot[: len(path)] == path]:
        del places[spot]
    for depth in range(1, len(path) + 1):
        places.setdefault(path[:depth], change.place)


def validated(model: type[PartOf], document: Document) -> PartOf:
    """A document as a value of this class.

    Raises:
        ScenarioError: with one line for each fault.
    """
    readers: dict[int, type[FileModel]] = {}
    try:
        return model.model_validate(document.tree, context=readers)
    except ValidationError as error:
        faults = faults_of(error.errors(include_url=False), document.tree, readers)
    raise ScenarioError(*_located(faults, document))


def _located(faults: Sequence[Fault], document: Document) -> list[Message]:
    """The faults behind their places, in the order of the file, each once."""
    placed = [(_place(fault.path, document.places), fault) for fault in faults]
    placed.sort(key=lambda pair: _line(pair[0], document.path))
    reasons = [_at(place, fault) for place, fault in placed]
    return list({str(reason): reason for reason in reasons}.values())


def _line(place: str, path: Path) -> float:
    """The line of a place in the file; those of overrides, from the command line or from Python, come after all."""
    number = place.removeprefix(f"{path}:")
    return int(number) if number != place and number.isdigit() else math.inf


def _place(path: KeyPath, places: Mapping[KeyPath, str]) -> str:
    """Where a value stands, or else the nearest mapping or list around it."""
    while path not in places and path:
        path = path[:-1]
    return places[path]


def _at(place: str, fault: Fault) -> Message:
    if not fault.path:
        return message("scenario.at_place", place=place, fault=fault.reason)
    return message("scenario.at_key", place=place, key=dotted(fault.path), fault=fault.reason)
