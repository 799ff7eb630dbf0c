"""Where files are found: scenarios by name, the user's own before those that ship, and the data files that they name.

In the repository they stand in scenarios/; a wheel holds them beside this module (see setup.py).
"""

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from harness.errors import InputError, nearest, suggestion
from harness.messages import Message, message

LOCAL = Path("scenarios")  # where a user's own are looked for, beside the working folder itself
_SCHEMA = "schema.json"  # editors complete keys by it; each file names it in its first line
_SUFFIXES = (".yaml", ".yml")


@cache
def shipped_folder() -> Path:
    """The folder of the scenarios that ship."""
    here = Path(__file__).resolve()
    return next(path for path in (here.parent / "shipped", here.parents[2] / "scenarios") if path.is_dir())


def shipped_scenarios() -> dict[str, str]:
    """The names of the scenarios and studies that ship, each with the question that it answers."""
    return {path.stem: str(_read(path)["question"]) for path in sorted(shipped_folder().glob("*.yaml"))}


def find_scenario(name: str, *, is_study: bool = False) -> Path:
    """The file of a path or a name: the path itself, NAME.yaml here or in scenarios/, else the one that ships.

    A path that does not exist is returned as it is: whoever reads it says what is wrong. Where a study is looked for
    (`is_study`), only studies are offered in place of a name that there is not.

    Raises:
        InputError: where no scenario, or study, has the name, with the nearest.
    """
    path = Path(name)
    if path.is_file() or path.name != name or path.suffix not in ("", *_SUFFIXES):
        return path
    for folder in (Path(), LOCAL, shipped_folder()):
        for candidate in _spellings(path):
            if (folder / candidate).is_file():
                return folder / candidate
    if path.suffix or path.exists():
        return path
    paths = [path for path in _known_files() if not is_study or _is_study(path)]
    hint = suggestion(name, dict.fromkeys(path.stem for path in paths), limit=20)
    code = "scenario.no_such_study" if is_study else "scenario.no_such_scenario"
    raise InputError(message(code, name=name, hint=hint))


def copy_scenario(name: str, folder: Path | None = None) -> list[Path]:
    """Copy a scenario that ships into a folder (the working folder by default), with the files that it names.

    The paths of the copies, the scenario's first.

    Raises:
        InputError: where none of that name ships, a file stands in the way, or the folder cannot be written.
    """
    source = next(
        (shipped_folder() / file for file in _spellings(Path(name)) if (shipped_folder() / file).is_file()), None
    )
    if source is None:
        raise InputError(
            message("scenario.not_shipped", name=name, hint=suggestion(name, shipped_scenarios(), limit=20))
        )
    target = folder or Path()
    copies = []
    for part in (source.name, *_companions(source)):
        copy = target / part
        if copy.exists() and part == source.name:
            raise InputError(message("scenario.copy_exists", path=str(copy)))
        if not copy.exists():
            try:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(shipped_folder() / part, copy)
            except OSError as error:
                raise InputError(
                    message("scenario.copy_failed", path=str(copy), reason=error.strerror or str(error))
                ) from None
            copies.append(copy)
    return copies


def _companions(source: Path) -> Iterator[str]:
    """The files that a shipped scenario or study reads, and the schema for editors."""
    tree = _read(source)
    scenario = tree.get("scenario")
    if isinstance(scenario, str):
        yield scenario
    path = (tree.get("workload") or {}).get("path")
    if path is not None:
        yield str(path)
    yield _SCHEMA


def _read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tree


def _spellings(path: Path) -> list[str]:
    """File names that a name may mean: long-context is in long_context.yaml."""
    suffixes = [path.suffix] if path.suffix else list(_SUFFIXES)
    stems = dict.fromkeys([path.stem, path.stem.replace("-", "_"), path.stem.replace("_", "-")])
    return [f"{stem}{suffix}" for stem in stems for suffix in suffixes]


def _known_files() -> list[Path]:
    return [path for folder in (Path(), LOCAL, shipped_folder()) for path in sorted(folder.glob("*.yaml"))]


def _is_study(path: Path) -> bool:
    """Whether a file names the scenario that it searches, as only a study does."""
    try:
        tree = _read(path)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(tree, dict) and "scenario" in tree


def find_data_file(path: str, folder: Path) -> Path:
    """The file that a scenario names, looked up from `folder` where its path is relative.

    Raises:
        InputError: where there is no such file, with the nearest name beside it.
    """
    file = folder / Path(path).expanduser()
    if not file.is_file():
        raise InputError(missing_file(file))
    return file


def missing_file(file: Path) -> Message:
    """That there is no such file, with the nearest name beside it."""
    near = nearest(file.name, _names_in(file.parent))
    hint = message("scenario.expected_a_file") if near is None else message("errors.did_you_mean", near=near)
    if file.exists():
        return message("scenario.not_a_file", path=str(file), hint=hint)
    return message("scenario.no_such_file", path=str(file), hint=hint)


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError:
        return []
