"""Arrays in JSON: base64 of their bytes."""

import base64
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def packed(values: NDArray[Any] | pd.Series, kind: str = "<f8") -> dict[str, str]:
    """An array as base64 of its bytes, little-endian: `f8`, `f4`, `i4`, `u2` or `u1`."""
    column = np.ascontiguousarray(np.asarray(values), dtype=np.dtype(kind))
    return {"kind": kind.lstrip("<"), "bytes": base64.b64encode(column.tobytes()).decode()}
