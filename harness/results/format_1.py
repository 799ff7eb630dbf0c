"""summary.json of format 1, as the version before messages wrote it, in the shape of format 2.

Its sentences stay as they were written, as messages without parameters that read the same in every language.
"""

from typing import Any

import msgspec
from msgspec import Struct

from harness.errors import ResultError
from harness.messages import message, plain
from harness.results.file_schemas import WRITTEN_BY_RUN, Place

_SEVERITIES = {"doubt": "warning"}  # the others have kept their names


class _Warning1(Struct, frozen=True):
    text: str
    name: str = ""
    severity: str = "warning"
    next: str = ""
    stage: Place | None = None
    repeat: Place | None = None


class _Verdict1(Struct, frozen=True):
    doubts: list[_Warning1]


def in_format_2(path: str, summary: Any) -> Any:
    """The content of a summary.json in format 2; what is in it already, or is no summary, stays as it is.

    Raises:
        ResultError: where its verdict is not of format 1, with the place.
    """
    verdict = summary.get("verdict") if isinstance(summary, dict) else None
    if not isinstance(verdict, dict) or "doubts" not in verdict:
        return summary
    try:
        warnings = [_warning(warning) for warning in msgspec.convert(verdict, _Verdict1).doubts]
    except (msgspec.ValidationError, OverflowError, RecursionError) as fault:
        place = f"{path}: verdict"
        raise ResultError(
            message("results.not_as_expected", place=place, reason=str(fault), expected=WRITTEN_BY_RUN)
        ) from None
    kept = {key: value for key, value in verdict.items() if key != "doubts"}
    return summary | {"format": 2, "verdict": kept | {"warnings": warnings}}


def _warning(warning: _Warning1) -> dict[str, Any]:
    return {
        "code": warning.name or warning.text,
        "severity": _SEVERITIES.get(warning.severity, warning.severity),
        "stage": warning.stage,
        "repeat": warning.repeat,
        "message": plain(warning.text).as_dict(),
        "text": warning.text,
        "next": plain(warning.next).as_dict(),
        "next_text": warning.next,
    }
