"""How are the arrays of a .npz file read, and are they what a reader relies upon?"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import ResultError
from harness.shaping import WROTE


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file by name.

    Raises:
        ResultError: where it cannot be read.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, EOFError, MemoryError, KeyError, zipfile.BadZipFile) as fault:
        first = next(iter(str(fault).splitlines()), type(fault).__name__)
        raise ResultError(f"{path}: cannot be read ({first}); expected {WROTE}") from None
    except (NotImplementedError, RuntimeError, SyntaxError, TypeError) as fault:  # of a header that is none
        raise ResultError(f"{path}: cannot be read ({type(fault).__name__}); expected {WROTE}") from None


def integers_in(
    path: Path, arrays: Mapping[str, NDArray[Any]], name: str, count: int | None = None
) -> NDArray[np.int64]:
    """An array of whole numbers, of `count` where that is known.

    Raises:
        ResultError: where it is absent or another.
    """
    found = arrays.get(name)
    if found is None:
        raise ResultError(f"{path}: has no {name}; expected {WROTE}")
    if found.ndim != 1 or found.dtype.kind != "i" or len(found) != (len(found) if count is None else count):
        wanted = "whole numbers" if count is None else f"{count} whole numbers"
        raise ResultError(f"{path}: {name} is {found.shape} of {found.dtype}; expected {wanted}")
    return found.astype(np.int64)
