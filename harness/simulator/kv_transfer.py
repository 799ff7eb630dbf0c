"""The hand-over of KV caches between prefill and decode engines, as vLLM's connectors that pull do it.

A prefill engine keeps the blocks of a prompt after its one token, until the decode engine has fetched them. A decode
engine gives such a request blocks as soon as there are free ones for the whole prompt, fetches, and computes the
prompt's last token itself. What goes between the two is `kv_transfer_params` in requests and answers, as with vLLM's
NIXL connector and vllm-ascend's MooncakeConnectorV1.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.simulator.engine import SimulatedEngine
from harness.simulator.engine_config import Settings
from harness.simulator.memory import token_bytes
from harness.simulator.scheduler_types import Request
from harness.simulator.step_cost import terms_for
from harness.units import seconds_to_ns

PRODUCER, CONSUMER, BOTH = "kv_producer", "kv_consumer", "kv_both"
KEPT_S = 480.0  # how long blocks wait to be fetched, VLLM_NIXL_ABORT_REQUEST_TIMEOUT of vLLM
Params = Mapping[str, Any]

_INTER_NODE = {"A2": 50e9, "A3": 196e9, "310P": 8e9, "CPU": 8e9}
"""Bytes/s of one device's port to other nodes, by family: RoCE for A2, HCCS within a super-node for A3 (the figures of
light-llm-simulator, which names the vendor); the share of it that is reached is that of all-reduce."""


def transfer_rate(settings: Settings) -> float:
    """Bytes/s at which one device fetches a cache."""
    if settings.kv_transfer_bandwidth:
        return settings.kv_transfer_bandwidth * 1e9
    return _INTER_NODE[settings.device.family] * terms_for(settings).link


@dataclass(slots=True)
class KvPort:
    """What a server fetches, one after another at the rate of its port, and what it keeps to be fetched.

    All devices of an engine fetch their shares at the same time. `on_fetched` is told the `kv_transfer_params` of what
    has been fetched, so that the other side can let go of it.
    """

    settings: Settings
    address: tuple[str, int] = ("", 0)
    on_fetched: Callable[[Params], None] = lambda _: None
    _kept: dict[str, tuple[SimulatedEngine, Request]] = field(default_factory=dict)
    _params: dict[Request, Params] = field(default_factory=dict)
    _free_s: float = 0.0  # when the port has nothing more to fetch

    @property
    def fetches(self) -> bool:
        """Whether this server fetches caches."""
        return self.settings.kv_role in (CONSUMER, BOTH)

    def accept(self, request: Request, params: Params | None) -> None:
        """Read what a request's `kv_transfer_params` ask of this server."""
        if params is None:
            return
        if params.get("do_remote_decode") and self.settings.kv_role in (PRODUCER, BOTH):
            request.kept = True
        if params.get("do_remote_prefill") and self.fetches:
            request.remote = True
            self._params[request] = params

    def keep(self, engine: SimulatedEngine, request: Request) -> dict[str, Any] | None:
        """What an answer tells of a finished request whose blocks are kept; None where they are not."""
        if not request.kept or not request.blocks:
            return None
        self._kept[request.id] = engine, request
        asyncio.get_running_loop().call_later(KEPT_S, self.release, request.id)
        host, port = self.address
        return {
            "do_remote_prefill": True, "do_remote_decode": False, "remote_block_ids": list(request.blocks),
            "remote_engine_id": f"simulator-{engine.rank}", "remote_request_id": request.id, "remote_host": host,
            "remote_port": port, "tp_size": self.settings.tensor_parallel_size,
        }  # fmt: skip

    def give_up(self, request: Request) -> None:
        """A client left: where nothing is fetched yet for its request, the other side can let go of it now."""
        if request.remote and request in self._params:
            self.on_fetched(self._params.pop(request))

    def release(self, name: str) -> None:
        """Free the blocks of a request that were kept; nothing where they are not any more."""
        engine, request = self._kept.pop(name, (None, None))
        if engine is not None and request is not None:
            engine.release(request)

    def fetch(self, engine: SimulatedEngine, request: Request) -> None:
        """Fetch the cache of a request that has its blocks now: `engine.fetched` is called when it is here."""
        loop = asyncio.get_running_loop()
        size = (len(request.prompt) - request.hit) * token_bytes(self.settings)
        begin_s = max(loop.time(), self._free_s)
        self._free_s = begin_s + size / transfer_rate(self.settings)
        end_s = self._free_s + self.settings.kv_transfer_latency
        took_ns = seconds_to_ns(end_s - loop.time())
        loop.call_at(end_s, self._fetched, engine, request, (size * self.settings.tensor_parallel_size, took_ns))

    def _fetched(self, engine: SimulatedEngine, request: Request, moved: tuple[int, int]) -> None:
        engine.fetched(request, *moved)
        params = self._params.pop(request, None)
        if params is not None:
            self.on_fetched(params)
