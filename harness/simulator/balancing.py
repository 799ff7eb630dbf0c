"""What chooses one of several servers or ranks for each request: the rules of proxies, and of vLLM's front end."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

LEAST_LOADED, ROUND_ROBIN = "least-loaded", "round-robin"
PUBLISHED_S = 0.1  # the least time between two publications of the ranks' counts
_PRESSURE = 6.0  # how much a waiting request weighs at a full cache, from a half full one on


class Balancer:
    """Chooses one of several servers for each request: the least loaded, or each in turn."""

    def __init__(self, servers: Sequence[str], policy: str = LEAST_LOADED) -> None:
        """`policy` is `LEAST_LOADED`, by what `choose` is told of each request, or `ROUND_ROBIN`."""
        self.servers = tuple(servers)
        self._policy = policy
        self._load = [0.0] * len(servers)
        self._chosen = [0] * len(servers)  # the number of the choice that fell on each last
        self._choices = 0

    @contextlib.contextmanager
    def choose(self, load: float) -> Iterator[str]:
        """The server for a request of this load, which it has until the context ends; of equal ones each in turn."""
        by_load = self._policy == LEAST_LOADED
        place = min(range(len(self.servers)), key=lambda n: (self._load[n] if by_load else 0.0, self._chosen[n], n))
        self._choices += 1
        self._chosen[place] = self._choices
        self._load[place] += load
        try:
            yield self.servers[place]
        finally:
            self._load[place] -= load


class RankCounts(Protocol):
    """What a data-parallel rank counts."""

    @property
    def waiting(self) -> int:
        """Requests that wait."""

    @property
    def running(self) -> int:
        """Requests that run."""

    @property
    def kv_usage(self) -> float:
        """The share of the cache's blocks that is held."""


class Rank(Protocol):
    """A data-parallel rank as its front end sees it."""

    @property
    def unfinished(self) -> int:
        """Requests that were sent to it and are not over."""

    def state(self) -> RankCounts:
        """Its counts now."""


@dataclass(slots=True)
class RankBalancer:
    """Chooses the data-parallel rank of each request as vLLM 0.32 does (`DPLBAsyncMPClient`, v1/engine/core_client.py).

    The least loaded by counts that the ranks' coordinator publishes every 100 ms and by what is in flight; what waits
    weighs more the fuller the cache; of equal ranks each in turn.
    """

    engines: Sequence[Rank]
    _counts: list[tuple[int, int, float]] = field(default_factory=list)  # waiting, running, use of the cache
    _sent: list[int] = field(default_factory=list)  # since the counts were published
    _first: int = 0  # where the search begins
    _published_s: float = float("-inf")
    _pending: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self._counts = [(0, 0, 0.0)] * len(self.engines)
        self._sent = [0] * len(self.engines)

    def choose(self) -> int:
        """The rank for the next request."""
        ranks = len(self.engines)
        if ranks == 1:
            return 0
        chosen = min(
            ((self._first + place) % ranks for place in range(ranks)), key=self._score
        )  # the first of the least
        self._sent[chosen] += 1
        self._first = (self._first + 1) % ranks
        return chosen

    def _score(self, rank: int) -> float:
        waiting, running, use = self._counts[rank]
        waiting += self._sent[rank]
        score: float = max(self.engines[rank].unfinished, waiting + running)
        return score + waiting * _PRESSURE * max(0.0, use - 0.5)

    def on_change(self) -> None:
        """A rank's counts may have changed: publish them, 100 ms after the last time at the earliest."""
        if self._pending is None:
            loop = asyncio.get_running_loop()
            due_s = max(loop.time(), self._published_s + PUBLISHED_S)
            self._pending = loop.call_at(due_s, self._publish, due_s)

    def _publish(self, now_s: float) -> None:
        self._pending, self._published_s = None, now_s
        states = [engine.state() for engine in self.engines]
        self._counts = [(state.waiting, state.running, state.kv_usage) for state in states]
        self._sent = [0] * len(self.engines)
