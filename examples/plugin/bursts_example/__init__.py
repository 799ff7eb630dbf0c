"""An arrival process `bursts` and a workload `countdown`, brought to npu-harness by entry points (see pyproject.toml).

load:
- bursts: {rate: 4, size: 8, duration: 30s}
workload: {kind: countdown, input_tokens: 64, output_tokens: 16}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

import harness
from harness.scenario.base import Duration
from harness.workload import Prompt, Reply, Session, TextPrompt, Turn, Workload, WorkloadSetting


class Bursts(harness.Options):
    """Bursts of requests: bursts arrive at random (Poisson), the requests of one at the same moment."""

    rate: Annotated[float, Field(gt=0, le=1_000_000)]
    """Requests a second, on average."""
    duration: Duration
    """How long requests are sent, such as 60s."""
    size: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Requests of a burst."""


def burst_times(options: Bursts, generator: np.random.Generator) -> NDArray[np.float64]:
    """Arrival times in seconds, ascending: each burst time as often as a burst has requests."""
    bursts = generator.poisson(options.rate / options.size * options.duration)
    times_s = np.sort(generator.uniform(0.0, options.duration, size=bursts))
    return np.repeat(times_s, options.size)


class Countdown(harness.Options):
    """Prompts that differ by a number alone, so that all but their ends are found in a prefix cache."""

    kind: Literal["countdown"]
    """The kind of work: countdown."""
    input_tokens: Annotated[int, Field(ge=8, le=100_000)] = 64
    """About the length of a prompt."""
    output_tokens: Annotated[int, Field(ge=1, le=100_000)] = 16
    """The length of an answer."""


@dataclass(frozen=True, slots=True)
class CountdownContents:
    """Sessions of one request each; they never repeat."""

    options: Countdown
    size: int | None = None

    def session(self, index: int) -> Session:
        """The one request of a session; only the server knows the exact length of a text."""
        return Session(index, (Turn(-1, self.options.output_tokens),))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:  # noqa: ARG002 - sessions have one turn
        """The text of a session: the same words, then its number."""
        return TextPrompt("count " * (self.options.input_tokens - 4) + f"down from {index}")


def countdown(options: Countdown, setting: WorkloadSetting) -> Workload:
    """The workload of a scenario; its lengths are not exact, as texts are sent."""
    return Workload(CountdownContents(options), exact=False, identity=setting.identity(options))


BURSTS = harness.Plugin(Bursts, burst_times)
COUNTDOWN = harness.Plugin(Countdown, countdown)
