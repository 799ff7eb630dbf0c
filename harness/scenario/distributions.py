"""How are numbers of tokens (and other counts) written in a scenario: fixed, or drawn from a distribution?"""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from harness.scenario.base import Many, Part, one_key

MOST_TOKENS = 10_000_000

Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]


class Normal(Part):
    """A normal distribution, rounded, kept within [min, max]."""

    mean: Annotated[float, Field(gt=0, le=MOST_TOKENS)]
    """The mean, before bounds."""
    sd: Annotated[float, Field(ge=0, le=MOST_TOKENS)]
    """The standard deviation, before bounds."""
    min: Tokens = 1
    """The least value; lower draws become it."""
    max: Tokens | None = None
    """The largest value; higher draws become it."""

    @model_validator(mode="after")
    def _ordered(self) -> "Normal":
        _check_bounds(self.min, self.max)
        return self


class LogNormal(Part):
    """A log-normal distribution, rounded, kept within [min, max]."""

    median: Annotated[float, Field(gt=0, le=MOST_TOKENS)]
    """The median, before bounds."""
    sigma: Annotated[float, Field(ge=0, le=5)]
    """The standard deviation of the logarithm: 0.5 is moderate, 1 has a long tail."""
    min: Tokens = 1
    """The least value; lower draws become it."""
    max: Tokens | None = None
    """The largest value; higher draws become it."""

    @model_validator(mode="after")
    def _ordered(self) -> "LogNormal":
        _check_bounds(self.min, self.max)
        return self


class Choice(Part):
    """One of these values, by weight."""

    values: Many[Tokens]
    """The values to choose from."""
    weights: Many[Annotated[float, Field(ge=0, le=1e9)]] | None = None
    """How often each value is chosen, relative to the others; all alike where none are given."""

    @model_validator(mode="after")
    def _matching(self) -> "Choice":
        if self.weights is not None and (len(self.weights) != len(self.values) or sum(self.weights) <= 0):
            raise ValueError(f"expected {len(self.values)} weights, one a value, not all of them 0")
        return self


class UniformItem(Part):
    """Whole numbers of [a, b], both included, all equally likely."""

    uniform: Annotated[tuple[Tokens, Tokens], Field(strict=False)]
    """The least and the largest value, such as [64, 512]."""

    @model_validator(mode="after")
    def _ordered(self) -> "UniformItem":
        low, high = self.uniform
        if low > high:
            raise ValueError(f"uniform [{low}, {high}] is upside down; expected [{high}, {low}]")
        return self


class NormalItem(Part):
    """A normal distribution of whole numbers."""

    normal: Normal
    """Mean, sd, min and max."""


class LogNormalItem(Part):
    """A log-normal distribution of whole numbers."""

    lognormal: LogNormal
    """Median, sigma, min and max."""


class ChoiceItem(Part):
    """A choice of whole numbers."""

    choice: Choice
    """Values and their weights."""


def _check_bounds(low: int, high: int | None) -> None:
    if high is not None and low > high:
        raise ValueError(f"min {low} is above max {high}; expected min at or below max")


def _kind_of(data: Any) -> str:
    if isinstance(data, Part):
        return next(iter(type(data).model_fields))
    return "a whole number" if isinstance(data, int | float) and not isinstance(data, bool) else one_key(data)


Count = Annotated[
    Annotated[Tokens, Tag("a whole number")]
    | Annotated[UniformItem, Tag("uniform")]
    | Annotated[NormalItem, Tag("normal")]
    | Annotated[LogNormalItem, Tag("lognormal")]
    | Annotated[ChoiceItem, Tag("choice")],
    Discriminator(_kind_of),
]
"""A whole number, or a distribution of them."""


def bounds(count: Count) -> tuple[int, int | None]:
    """The least and the largest value that can be drawn; None where there is no largest."""
    if isinstance(count, int):
        return count, count
    if isinstance(count, UniformItem):
        return count.uniform
    if isinstance(count, ChoiceItem):
        return min(count.choice.values), max(count.choice.values)
    body = count.normal if isinstance(count, NormalItem) else count.lognormal
    return body.min, body.max


def at_most(count: Count) -> int:
    """The largest value that can be drawn, or the middle of a distribution that has no largest."""
    low, high = bounds(count)
    if high is not None:
        return high
    if isinstance(count, NormalItem):
        return max(round(count.normal.mean), low)
    return max(round(count.lognormal.median) if isinstance(count, LogNormalItem) else low, low)
