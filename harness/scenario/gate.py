"""A gate file: how much worse a new run may be, by measure."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from harness.messages import message
from harness.scenario.base import FileModel, refused
from harness.scenario.metrics import KERNEL_TIME, PATTERN, measure_of

_SHARE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*%\s*")


def _measured(key: str) -> str:
    measure_of(key)
    return key


def _share(value: Any) -> float:
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise refused(message("scenario.expected_percent"))
    return float(match[1]) / 100


PercentShare = Annotated[
    float,
    BeforeValidator(_share),
    Field(ge=0, lt=1),
    WithJsonSchema({"type": "string", "pattern": r"^\s*[0-9]*\.?[0-9]+\s*%\s*$"}),
]
"""A share in per cent, such as `5%`."""

Allowed = Annotated[
    dict[Annotated[str, AfterValidator(_measured)], PercentShare],
    Field(min_length=1),
    WithJsonSchema(
        {
            "type": "object",
            "minProperties": 1,
            "patternProperties": {f"^({PATTERN})$": {"type": "string", "pattern": r"^\s*[0-9]*\.?[0-9]+\s*%\s*$"}},
            "additionalProperties": False,
        }
    ),
]


class Gate(FileModel):
    """Which measures a new run is held to, and how much worse each may be."""

    gate: Allowed
    """How much worse each measure may be, such as ttft_p99: 5%; failed_share is allowed in points."""
    samples: Annotated[int, Field(ge=1, le=10_000_000)] = 30
    """The fewest requests on each side of a stage (samples of a kernel) for a measure to be judged."""
    confidence: PercentShare = 0.95
    """How sure a difference has to be over all measures and stages together."""
    smallest: PercentShare = 0.005
    """The smallest difference worth telling; one is shown where it is surely larger, either way."""
    between_runs: PercentShare | None = None
    """How far two runs of one engine differ (standard deviation), where you know it; used where no repeats tell."""


_JUDGED = ("ttft_p50", "ttft_p99", "tpot_mean", "output_token_rate", "failed_share")
DEFAULT_GATE = Gate.model_validate({"gate": dict.fromkeys(_JUDGED, "0.5%")})
"""What is judged where no file says otherwise."""
KERNEL_GATE = Gate.model_validate({"gate": {KERNEL_TIME: "0.5%"}, "samples": 1})
"""What kernels are held to where no file says otherwise: a quiet one needs few samples."""


def for_kernels(gate: Gate) -> Gate:
    """A gate of a file, with what it does not say as `KERNEL_GATE` has it."""
    return KERNEL_GATE.model_copy(update={name: getattr(gate, name) for name in gate.model_fields_set})
