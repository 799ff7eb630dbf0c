"""Coordination of several workers: claims on points and leases of devices, so that none is had twice.

Two tables in the study's own database. A claim is a row whose key can be there once: whoever inserts it
has the point. A lease is a device with the name of who has it and until when; it is kept alive by a
heartbeat and free again when that stops. Times are the database's own, so that hosts need not agree.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil
import sqlalchemy as sql

LEASE_S = 60.0
"""How long a lease, and the word that a worker lives, holds without a heartbeat."""
_RESTS_S = (0.2, 0.5, 1.0, 2.0)
_META = sql.MetaData()
Created = TypeVar("Created")
CLAIMS = sql.Table(
    "harness_claims",
    _META,
    sql.Column("study", sql.String(120), primary_key=True),
    sql.Column("digest", sql.String(64), primary_key=True),
    sql.Column("worker", sql.String(120), nullable=False),
)
DEVICES = sql.Table(
    "harness_devices",
    _META,
    sql.Column("device", sql.String(200), primary_key=True),
    sql.Column("worker", sql.String(120)),
    sql.Column("until_s", sql.Float, nullable=False, default=0.0),
    sql.Column("quarantined", sql.String(500)),
)
WORKERS = sql.Table(
    "harness_workers",
    _META,
    sql.Column("worker", sql.String(120), primary_key=True),
    sql.Column("until_s", sql.Float, nullable=False),
)


@dataclass(slots=True)
class Coordinator:
    """One worker's place at the database where claims and leases lie."""

    engine: sql.Engine
    study: str
    worker: str
    lease_s: float = LEASE_S
    _over: threading.Event = field(default_factory=threading.Event)
    _known: bool = False

    def claim(self, digest: str) -> bool:
        """Take a point, by the digest of its effective configuration; false where somebody has it."""
        return self._inserted(CLAIMS, {"study": self.study, "digest": digest, "worker": self.worker})

    def release(self, digest: str) -> None:
        """Give a point back that was not tried after all."""
        mine = (CLAIMS.c.study == self.study) & (CLAIMS.c.digest == digest) & (CLAIMS.c.worker == self.worker)
        with self.engine.begin() as connection:
            connection.execute(sql.delete(CLAIMS).where(mine))

    def release_dead(self, alive: Collection[str], finished: Collection[str]) -> None:
        """Free what workers that no longer live had: claims that they did not finish, and devices.

        `kept` are the digests of trials that ended.
        """
        foreign = (CLAIMS.c.study == self.study) & CLAIMS.c.worker.not_in(list(alive))
        with self.engine.begin() as connection:
            connection.execute(sql.delete(CLAIMS).where(foreign & CLAIMS.c.digest.not_in(list(finished))))
            orphaned = DEVICES.c.worker.not_in(list(alive))
            connection.execute(sql.update(DEVICES).where(orphaned).values(worker=None, until_s=0.0))

    def lease(self, devices: Sequence[str], count: int) -> tuple[str, ...] | None:
        """So many of the devices, all or none; None where too few are free."""
        with self.engine.connect() as connection:
            registered = {row[0] for row in connection.execute(sql.select(DEVICES.c.device))}
        for device in [device for device in devices if device not in registered]:
            self._inserted(DEVICES, {"device": device, "worker": None, "until_s": 0.0, "quarantined": None})
        leased: list[str] = []
        for device in devices:
            if len(leased) < count and self._taken(device):
                leased.append(device)
        if len(leased) == count:
            return tuple(leased)
        self.release_devices(leased)
        return None

    def _taken(self, device: str) -> bool:
        free = DEVICES.c.worker.is_(None) | (DEVICES.c.until_s < self._now())
        available = (DEVICES.c.device == device) & DEVICES.c.quarantined.is_(None) & free
        with self.engine.begin() as connection:
            result = connection.execute(
                sql.update(DEVICES).where(available).values(worker=self.worker, until_s=self._now() + self.lease_s)
            )
        return bool(result.rowcount)

    def release_devices(self, devices: Sequence[str]) -> None:
        """End the lease of devices."""
        with self.engine.begin() as connection:
            mine = DEVICES.c.device.in_(list(devices)) & (DEVICES.c.worker == self.worker)
            connection.execute(sql.update(DEVICES).where(mine).values(worker=None, until_s=0.0))

    def quarantine(self, device: str, reason: str) -> None:
        """Let nobody have a device any more."""
        with self.engine.begin() as connection:
            connection.execute(sql.update(DEVICES).where(DEVICES.c.device == device).values(quarantined=reason[:500]))

    def quarantined(self) -> dict[str, str]:
        """Devices in quarantine, and why."""
        with self.engine.connect() as connection:
            rows = connection.execute(sql.select(DEVICES.c.device, DEVICES.c.quarantined))
            return {device: why for device, why in rows if why is not None}

    def alive(self) -> set[str]:
        """Workers whose heart has beaten lately; one of this host that is gone is known to be dead at once."""
        with self.engine.connect() as connection:
            rows = connection.execute(sql.select(WORKERS.c.worker).where(WORKERS.c.until_s >= self._now()))
            return {str(row[0]) for row in rows if not is_dead(str(row[0]))}

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Keep this worker and its leases alive for as long as the context lasts."""
        self._beat()
        thread = threading.Thread(target=self._beats, name="tune heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            with self.engine.begin() as connection:
                connection.execute(sql.delete(WORKERS).where(WORKERS.c.worker == self.worker))
                connection.execute(
                    sql.update(DEVICES).where(DEVICES.c.worker == self.worker).values(worker=None, until_s=0.0)
                )

    def _beats(self) -> None:
        while not self._over.wait(self.lease_s / 4):
            self._beat()

    def _beat(self) -> None:
        until = self._now() + self.lease_s
        if not self._known:
            self._known = self._inserted(WORKERS, {"worker": self.worker, "until_s": 0.0})
        with self.engine.begin() as connection:
            connection.execute(sql.update(WORKERS).where(WORKERS.c.worker == self.worker).values(until_s=until))
            connection.execute(sql.update(DEVICES).where(DEVICES.c.worker == self.worker).values(until_s=until))

    def _now(self) -> Any:
        """The database's own clock in seconds, as an expression."""
        if self.engine.dialect.name == "sqlite":
            return sql.cast(sql.func.julianday("now") * 86400.0, sql.Float)
        return sql.cast(sql.extract("epoch", sql.func.clock_timestamp()), sql.Float)

    def _inserted(self, table: sql.Table, row: dict[str, Any]) -> bool:
        try:
            with self.engine.begin() as connection:
                connection.execute(sql.insert(table).values(**row))
        except sql.exc.IntegrityError:
            return False
        return True


def worker_name() -> str:
    """What this process is called: its host, its number there, and a word of its own."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def is_dead(worker: str) -> bool:
    """Whether a worker was a process of this host that is no longer there; false where that cannot be told."""
    host, _, number = worker.rpartition(":")[0].rpartition(":")
    return host == socket.gethostname() and number.isdigit() and not psutil.pid_exists(int(number))


def open_coordinator(url: str, study: str, worker: str, lease_s: float = LEASE_S) -> Coordinator:
    """A worker's place; makes the tables where they are not there."""
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    engine = sql.create_engine(url, **options)

    def make() -> None:
        with engine.begin() as connection:
            _META.create_all(connection)

    retry_on_conflict(make)
    return Coordinator(engine, study, worker, lease_s)


def retry_on_conflict(make: Callable[[], Created]) -> Created:
    """What `make` makes in a database, tried again where another worker makes the same at the same moment."""
    for rest_s in _RESTS_S:
        try:
            return make()
        except (sql.exc.IntegrityError, sql.exc.ProgrammingError, sql.exc.OperationalError):
            time.sleep(rest_s)
    return make()
