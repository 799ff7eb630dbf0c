"""Two workers never have the same point or the same device."""

import threading

import pytest
import sqlalchemy as sql

from harness.tuning.coordination import DEVICES, WORKERS, open_coordinator

LONG_AGO_S = 0.0


@pytest.fixture
def url(tmp_path):
    """A database for desks."""
    return f"sqlite:///{tmp_path / 'desk.db'}"


def desk(url, worker):
    """One worker's desk."""
    return open_coordinator(url, "study", worker)


def test_a_point_is_claimed_once(url):
    """By whoever is first, of many at the same time."""
    desks = [desk(url, f"worker {number}") for number in range(4)]
    won = []
    threads = [threading.Thread(target=lambda one=one: won.append(one.claim("point"))) for one in desks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(won) == [False, False, False, True]


def test_a_device_is_leased_to_one_worker(url):
    """All that were asked for or none; what is given back is free."""
    one, other = desk(url, "one"), desk(url, "other")

    assert one.lease(["a", "b", "c"], 2) == ("a", "b")
    assert other.lease(["a", "b", "c"], 2) is None
    assert other.lease(["a", "b", "c"], 1) == ("c",)
    one.release_devices(["a", "b"])
    assert other.lease(["a", "b"], 2) == ("a", "b")


def test_a_lease_without_a_heartbeat_runs_out(url):
    """The device of a worker that was killed is free again; its claims too, once it is known to be dead."""
    dead, alive = desk(url, "dead"), desk(url, "alive")
    dead.claim("done")
    dead.claim("lost")
    dead.lease(["a"], 1)
    with dead.engine.begin() as told:
        told.execute(sql.update(DEVICES).values(until_s=LONG_AGO_S))
        told.execute(sql.insert(WORKERS).values(worker="dead", until_s=LONG_AGO_S))
    with alive.heartbeat():
        assert alive.alive() == {"alive"}
        assert alive.lease(["a"], 1) == ("a",)
        alive.release_dead(alive.alive(), ["done"])

    assert alive.claim("lost")
    assert not alive.claim("done")


def test_a_heart_keeps_leases_and_its_end_frees_them(url):
    """While it beats nobody else gets the device; afterwards anybody does."""
    one, other = desk(url, "one"), desk(url, "other")
    with one.heartbeat():
        one.lease(["a"], 1)
        one._beat()
        assert other.lease(["a"], 1) is None

    assert other.lease(["a"], 1) == ("a",)


def test_a_quarantined_device_is_nobodys(url):
    """And it is told why."""
    one = desk(url, "one")
    one.lease(["a"], 1)
    one.quarantine("a", "its memory was not free again")
    one.release_devices(["a"])

    assert one.lease(["a"], 1) is None
    assert one.quarantined() == {"a": "its memory was not free again"}
