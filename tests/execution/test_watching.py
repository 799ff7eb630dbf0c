"""The counters of several processes are polled each by itself, whatever becomes of one of them."""

import asyncio

import pytest

from harness.engines import RunningEngine
from harness.engines.api_client import ControlClient
from harness.engines.base import ServedProcess
from harness.execution import watching as module
from harness.execution.watching import Watched, read_once, watching

RUNNING, GENERATED = "vllm:num_requests_running", "vllm:generation_tokens_total"
TEXT = f'{RUNNING}{{engine="0"}} 3\n{GENERATED}{{engine="0"}} 100\n'
TWO = TEXT + TEXT.replace('engine="0"', 'engine="1"')
REPLY = "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"


class Processes:
    """Servers of /metrics on this machine: `texts` of each by name, None for one that never answers."""

    def __init__(self, texts):
        self.texts = dict(texts)
        self.asked = dict.fromkeys(texts, 0)
        self._servers = {}

    async def __aenter__(self):
        for name in self.texts:
            self._servers[name] = await asyncio.start_server(
                lambda r, w, name=name: self._serve(name, r, w), "127.0.0.1"
            )
        return self

    async def __aexit__(self, *_):
        for server in self._servers.values():
            server.close()

    async def _serve(self, name, reader, writer):
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked[name] += 1
                text = self.texts[name]
                if text is None:
                    continue
                if text == "died":
                    break
                writer.write(REPLY.format(length=len(text), body=text).encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def served(self):
        """The engine of these processes."""
        ports = {name: server.sockets[0].getsockname()[1] for name, server in self._servers.items()}
        processes = tuple(ServedProcess(name, metrics_url=f"http://127.0.0.1:{port}") for name, port in ports.items())
        return RunningEngine("attach", "http://127.0.0.1:1", "m", simulated=True, processes=processes)


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(module, "SCRAPE_S", 0.01)
    monkeypatch.setattr(module, "_SOON_S", 0.01)
    monkeypatch.setattr(module, "_FIRST_S", 0.05)
    monkeypatch.setattr(module, "_LAST_S", 0.05)


def watched_until(texts, enough, change=lambda _processes, _watched: None):
    """What was watched of processes until `enough` of it; `change` may alter them meanwhile."""

    async def go():
        watched = Watched()
        async with Processes(texts) as processes, ControlClient("http://127.0.0.1:1") as control:
            serving = processes.served()
            async with watching(control, serving, watched):
                while not enough(watched):
                    change(processes, watched)
                    await asyncio.sleep(0.005)
            before = len(watched.rows)
            await read_once(control, serving, watched)
        return watched, watched.rows[before:]

    return asyncio.run(asyncio.wait_for(go(), 20))


def values(rows, source, name):
    """Values of a name of one source, in the order in which they came."""
    return [value for _, own, kept, value in rows if (own, kept) == (source, name)]


def test_each_process_is_a_source_and_the_server_is_all(monkeypatch):
    """Of one with two engines each engine is a source; the server has the counts of all three."""
    watched, last = watched_until(
        {"prefill-0": TEXT, "decode-0": TWO}, lambda watched: len(values(watched.rows, "server", RUNNING)) > 2
    )

    assert {source for _, source, _, _ in watched.rows} - {"host"} == {
        "server", "server/prefill-0", "server/decode-0/0", "server/decode-0/1",
    }  # fmt: skip
    assert set(values(watched.rows, "server", RUNNING)) == {9}
    assert values(last, "server", GENERATED) == [300]


def test_one_that_hangs_does_not_hold_up_the_others():
    """It is asked once and waited for; the others are read on, joined without it, and read at the end."""
    watched, last = watched_until(
        {"a": TEXT, "hung": None, "b": TEXT}, lambda watched: len(values(watched.rows, "server", GENERATED)) > 5
    )

    assert len(values(watched.rows, "server/a", RUNNING)) > 5
    assert values(watched.rows, "server/hung", RUNNING) == []
    assert set(values(watched.rows, "server", GENERATED)) == {200}
    assert values(last, "server", GENERATED) == [200]


def test_one_that_dies_keeps_what_it_had_counted():
    """The server's count goes on from there with what the others count."""

    def change(processes, watched):
        if values(watched.rows, "server", GENERATED):
            processes.texts |= {"a": "died", "b": TEXT.replace("100", "150")}

    watched, _ = watched_until(
        {"a": TEXT, "b": TEXT}, lambda watched: 250 in values(watched.rows, "server", GENERATED), change
    )
    counts = values(watched.rows, "server", GENERATED)

    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (200, 250)


def test_one_that_comes_late_adds_what_it_counts_from_then_on():
    """What it had counted before the run is nobody's work of the run."""

    def change(processes, watched):
        if values(watched.rows, "server", GENERATED):
            processes.texts["late"] = TEXT
        if values(watched.rows, "server/late", GENERATED):
            processes.texts["late"] = TEXT.replace("100", "107")

    watched, _ = watched_until(
        {"a": TEXT, "late": "# nothing yet"}, lambda watched: 107 in values(watched.rows, "server", GENERATED), change
    )

    assert set(values(watched.rows, "server", GENERATED)) == {100, 107}


@pytest.mark.parametrize(("text", "source"), [(TWO, "server/a/1"), (TEXT.replace('"0"', '"1"'), "server/a")])
def test_what_an_engine_logs_is_of_the_engine_that_logged_it(tmp_path, text, source):
    """A line of rank 1 is of engine 1 where the process has several, and of the process that is rank 1 itself."""
    log = tmp_path / "engine-a.log"
    log.write_text("")
    line = "(Worker_DP1 pid=7) INFO 11-29 10:00:00 [m.py:1] KV cache transfer for request x took 10.00 ms. local_ip\n"

    async def go():
        watched = Watched()
        watched.add_metrics(0, text, "a")
        follower = asyncio.ensure_future(module._follow(log, watched, "a"))
        await asyncio.sleep(0)
        with log.open("a") as file:
            file.write(line)
        for _ in range(1000):
            if values(watched.rows, source, "kv_transfers"):
                break
            await asyncio.sleep(0.005)
        follower.cancel()
        return watched

    watched = asyncio.run(asyncio.wait_for(go(), 20))

    assert values(watched.rows, source, "kv_transfers") == [1]
    assert values(watched.rows, source, "kv_transfer_seconds") == [0.01]
