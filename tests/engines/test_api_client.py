"""Control calls reach any server as requests do, and survive whatever it sends."""

import asyncio
import itertools
import json

import pytest

from harness.engines import start_of
from harness.engines.api_client import HEALTHY, ControlClient
from harness.errors import EngineError, HarnessError
from harness.scenario.engine import Engine, Paths
from tests.odd_server import OddServer, sized

LORA = {"data": [{"id": "sql", "root": "/l", "parent": "big"}, {"id": "big", "root": "/m", "parent": None}]}


def asked(server, call, engine=None):
    """What a control call to a server gives."""

    async def main():
        async with ControlClient(server.url, engine) as control:
            return await call(control)

    return asyncio.run(main())


def attached(tmp_path, answer, path="", **keys):
    """What attaching to a server gives, and the paths that it was asked for."""

    async def main(engine):
        async with start_of("attach")(engine, tmp_path / "log") as serving:
            return serving

    with OddServer(answer) as server:
        serving = asyncio.run(main(Engine(kind="attach", url=server.url + path, **keys)))
        return serving, [path for path, _, _ in server.seen]


def _endless(*_):
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    yield from itertools.repeat(b"vllm:num_requests_running 1\n" * 2000)


@pytest.mark.parametrize(
    "answer",
    [
        _endless,
        lambda *_: itertools.chain([b"HTTP/1.1 200 OK\r\n"], itertools.repeat(b"X-Pad: y\r\n" * 100)),
        lambda *_: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nab\r\n\r\n",
        lambda *_: sized('{"data": [{"id": "\\ud800"}]}'),
        lambda *_: sized("[" * 100_000),
        lambda *_: sized('{"data": [{"id": 5}]}'),
        lambda *_: sized('{"data": 5}'),
        lambda *_: sized("<html>"),
        lambda *_: sized(b"\xff\xfe"),
        lambda *_: sized("zip", "200 OK", "Content-Encoding: gzip"),
        lambda *_: sized("", "307 No", "Location: http://elsewhere/"),
        lambda *_: sized("no", "500 No"),
    ],
)
def test_a_broken_list_of_models_is_one_line(answer):
    """Endless, deep, compressed, moved, not Unicode or not a list: a line that names the address."""
    with OddServer(answer) as server, pytest.raises(EngineError) as caught:
        asked(server, lambda control: control.models())

    assert len(caught.value.lines) == 1
    assert f"{server.url}/v1/models: " in str(caught.value)


def test_a_redirect_names_where_to():
    """Nothing is followed: the address that is measured is the one that was given."""
    moved = sized("", "308 No", "Location: http://b/v1/models")
    with OddServer(lambda *_: moved) as server, pytest.raises(EngineError, match="http://b/v1/models"):
        asked(server, lambda control: control.models())


def test_endless_counters_are_none():
    """A flood under /metrics ends at its bound and counts as no counters."""
    with OddServer(_endless) as server:
        assert asked(server, lambda control: control.metrics()) == ""


def test_counters_that_are_no_text_are_read_as_far_as_they_are():
    """Bytes that are no UTF-8 do not end a run."""
    with OddServer(lambda *_: sized(b"\xff\xfe\nvllm:num_requests_running NaN\n")) as server:
        assert "NaN" in asked(server, lambda control: control.metrics())


def test_the_base_model_is_taken_and_never_an_adapter(tmp_path):
    """Of a model and its LoRA adapters the model is loaded, whatever stands first."""
    serving, _ = attached(tmp_path, lambda *_: sized(json.dumps(LORA)))

    assert (serving.model, serving.marks) == ("big", {})


def test_a_server_without_a_list_of_models_is_loaded_by_name(tmp_path):
    """With a model's name there is a note; without, the user is asked for one."""
    serving, _ = attached(tmp_path, lambda *_: sized("", "404 No"), model="m")

    assert (serving.model, serving.marks) == ("m", {"models_listed": False})
    with pytest.raises(HarnessError, match="--model"):
        attached(tmp_path, lambda *_: sized("", "404 No"))


@pytest.mark.parametrize(
    ("path", "keys", "models"),
    [
        ("", {}, "/v1/models"),
        ("/base/v1/", {}, "/base/v1/models"),
        ("/v1/chat/completions", {}, "/v1/models"),
        ("/gate/v1/completions?api-version=2", {}, "/gate/v1/models?api-version=2"),
        ("/api/v4/chat/completions", {}, "/api/v4/models"),
        ("/base", {"paths": Paths(models="/list")}, "/list"),
    ],
)
def test_addresses_lead_to_their_routes(tmp_path, path, keys, models):
    """Bases, /v1, whole endpoints, queries and routes of their own."""
    _, seen = attached(tmp_path, lambda *_: sized('{"data": [{"id": "m"}]}'), path, **keys)

    assert seen[0] == models


def test_health_has_its_route():
    """Where /health lies elsewhere, that is where it is asked for."""
    engine = Engine(kind="attach", url="http://h", paths=Paths(health="/up"))
    with OddServer(lambda path, *_: sized("", "200 OK" if path == "/up" else "404 No")) as server:
        assert asked(server, lambda control: control.state(), engine) == HEALTHY
