"""What would the same steps have taken on a device of another speed?

Where nobody sends by the clock (a closed loop, or all requests at once), a request comes when a step ends and an
answer with it. What is computed in which step is then the scheduler's doing alone, and time has no part in it: one
that served a load can be timed again by other coefficients, without being served again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_STEP_BYTES = 250
Work = tuple[int, int, Sequence[tuple[int, int]]]
"""What a step computes: decodes, the tokens in their caches, and prefill chunks (new tokens, tokens before them)."""


class Pace(Protocol):
    """How long a step takes; `harness.simulator.step_cost.StepCost` is one."""

    def duration_ns(self, decodes: int, context: int, prefills: Sequence[tuple[int, int]]) -> int:
        """Nanoseconds of a step."""


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """A load as steps, without their times.

    `trails[i]` are the numbers of the steps that gave request i a token, `sent_after[i]` is how many steps had ended
    when it was sent.
    """

    work: Sequence[Work]
    trails: tuple[NDArray[np.int32], ...]
    sent_after: NDArray[np.int64]

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return sum(trail.nbytes for trail in self.trails) + _STEP_BYTES * len(self.work)

    def times(self, pace: Pace) -> "Times":
        """Its times at some pace."""
        taken = [pace.duration_ns(*work) for work in self.work]
        ends_ns = np.cumsum(np.asarray(taken, dtype=np.int64))
        begins_ns = np.concatenate([np.zeros(1, dtype=np.int64), ends_ns])
        return Times(tuple(ends_ns[trail] for trail in self.trails), begins_ns[self.sent_after], ends_ns)


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """When each request got its tokens, when it was sent, and when each step ended: ns from the load's begin."""

    token_ns: tuple[NDArray[np.int64], ...]
    sent_ns: NDArray[np.int64]
    step_ns: NDArray[np.int64]
