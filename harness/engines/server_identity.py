"""Who listens at an address of this machine, and is that a simulated engine, or one on a hollow device?

Behind a proxy that drops headers the process still shows what it is: its command line, the libraries it
has mapped, those of its children, and the same of the servers on this machine that it is connected to.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil

from harness.engines.stub_device import has_stand_in

_HOPS = 3  # from a proxy to the engine behind it
_HERE = ("::1", "localhost")


@dataclass(frozen=True, slots=True)
class Listeners:
    """What is known of the processes at an address: who they are, and which marks they bear."""

    identity: frozenset[tuple[int, float]] = frozenset()
    simulated: bool = False
    hollow: bool = False

    def is_another(self, later: "Listeners") -> bool:
        """Whether `later` none of these processes listened any more, but others did."""
        return bool(self.identity and later.identity) and not self.identity & later.identity


def look(url: str) -> Listeners:
    """The processes that listen at an address; nothing is known of another machine, or of another user's."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not _is_here(parts.hostname or ""):
        return Listeners()
    connections = _connections()
    found = _behind(port, connections)
    first = frozenset(_identities(_listening(port, connections)))
    family = {pid for pid in found for pid in (pid, *_children(pid))}
    return Listeners(first, any(map(_is_simulator, family)), any(map(has_stand_in, family)))


def _is_here(host: str) -> bool:
    if host in _HERE or host.startswith("127.") or host == socket.gethostname():
        return True
    return any(host == one.address for addresses in psutil.net_if_addrs().values() for one in addresses)


def _connections() -> list[Any]:
    try:
        return [one for one in psutil.net_connections("tcp") if one.pid and one.pid != os.getpid()]
    except (psutil.Error, OSError):
        return []


def _listening(port: int, connections: list[Any]) -> set[int]:
    return {one.pid for one in connections if one.status == psutil.CONN_LISTEN and one.laddr.port == port}


def _behind(port: int, connections: list[Any]) -> set[int]:
    """The processes that listen at a port, and those on this machine that they are connected to in turn."""
    found: set[int] = set()
    ports = {port}
    for _ in range(_HOPS):
        new = {pid for one in ports for pid in _listening(one, connections)} - found
        found |= new
        ports = {one.raddr.port for one in connections if one.pid in new and one.raddr and _is_here(one.raddr.ip)}
    return found


def _identities(pids: set[int]) -> Iterator[tuple[int, float]]:
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            yield pid, psutil.Process(pid).create_time()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def _is_simulator(pid: int) -> bool:
    """Whether a process is `harness serve-sim`, however it was called."""
    with contextlib.suppress(psutil.Error):
        words = psutil.Process(pid).cmdline()
        return "serve-sim" in words and any("harness" in word for word in words[: words.index("serve-sim")])
    return False
