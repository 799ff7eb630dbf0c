"""The client finds the end of every answer, and gives every failure its name."""

import asyncio
import contextlib
import itertools
import socket
import ssl
import subprocess

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.client import answer_decoding
from harness.client.connection import Connection, InFlightRequest
from harness.client.transport import Client, Target, post_bytes, target_of
from harness.clock import MonotonicClock
from harness.errors import EngineError, InputError
from harness.safety import bounds
from tests.fakes import answered, chunked, event

OK = answered(event(ids=[1]), event(ids=[2]))
TIMEOUT_NS = 30_000_000_000


async def read_request(reader):
    """The whole of one POST request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


class Server:
    """A server on loopback that answers each connection by a script: `answer(reader, writer, number)`."""

    def __init__(self, answer, tls=None):
        self._answer = answer
        self._tls = tls
        self.connections = 0
        self.requests = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await asyncio.sleep(0)

    async def _serve(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            await self._answer(self, reader, writer)
        with contextlib.suppress(ConnectionError):
            writer.close()


def always(raw, *, times=10_000, pieces=None):
    """Answer every request with the same bytes, in one write or in these pieces."""

    async def answer(server, reader, writer):
        for _ in range(times):
            server.requests.append(await read_request(reader))
            for piece in pieces or [raw]:
                writer.write(piece)
                await writer.drain()
                if pieces:
                    await asyncio.sleep(0.001)

    return answer


def run(main):
    """Run a coroutine function on the loop that is measured with."""
    loop = uvloop.new_event_loop()
    try:
        found = loop.run_until_complete(asyncio.wait_for(main(), 20))
        loop.run_until_complete(_unwound())
        return found
    finally:
        loop.close()


async def _unwound():
    """Cancel what servers still wait for, and let closed transports go."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for _ in range(4):
        await asyncio.sleep(0.002)


async def exchange_on(client, target, seq=0):
    """One request, from sent to over."""
    over = asyncio.get_running_loop().create_future()
    one = InFlightRequest(seq, post_bytes(target, "/v1/completions", b"{}"), 0, over.set_result)
    client.send(one)
    return await over


def exchanges(answer, count=1, *, timeout_ns=TIMEOUT_NS, tls=None, host="127.0.0.1"):
    """So many exchanges, one after the other, with a scripted server; they, and the server."""

    async def main():
        async with Server(answer, tls) as server:
            target = Target("https" if tls else "http", host, server.port, "")
            client = Client(target, MonotonicClock(asyncio.get_running_loop()), timeout_ns)
            found = [await exchange_on(client, target, seq) for seq in range(count)]
            await client.close()
            return found, server

    return run(main)


def decoded(request):
    """What a request's answer said."""
    return answer_decoding.decode(request.pieces, request.stamps, request.failure, request.message)


def test_one_connection_carries_many_requests():
    """Answers with a length, in chunks, and in chunks with trailers leave their connection open for the next."""
    sized = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    trailed = OK[:-2] + b"X-T: 1\r\n\r\n"
    for raw in (OK, sized, trailed):
        found, server = exchanges(always(raw), 5)

        assert (server.connections, [e.failure for e in found]) == (1, [""] * 5)
        assert all(e.sent_ns <= e.stamps[0] <= e.stamps[-1] == e.done_ns for e in found)


def test_the_start_is_stamped_with_a_connection_in_hand():
    """Time spent connecting is told apart and is not part of what follows the start stamp."""
    (first, second), _ = exchanges(always(OK), 2)

    assert first.connect_ns > 0
    assert second.connect_ns == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, len(OK) - 1), min_size=1, max_size=6, unique=True))
def test_the_end_is_found_wherever_the_bytes_are_cut(cuts):
    """An answer that arrives in any pieces is complete exactly at its last byte."""
    places = [0, *sorted(cuts), len(OK)]
    pieces = [OK[a:b] for a, b in itertools.pairwise(places)]
    (one, two), server = exchanges(always(OK, pieces=pieces), 2)

    assert (one.failure, two.failure, server.connections) == ("", "", 1)
    assert b"".join(one.pieces) == OK
    assert decoded(two).token_ids == (1, 2)


def test_a_body_that_looks_like_an_end_is_not_one():
    """Bytes like the last chunk inside a chunk do not end the answer."""
    trap = chunked(b"data: \r\n0\r\n\r\n", b"data: [DONE]\n\n")
    cut = trap.index(b"0\r\n\r\n") + 5
    (one, two), server = exchanges(always(trap, pieces=[trap[:cut], trap[cut:]]), 2)

    assert (b"".join(one.pieces), two.failure, server.connections) == (trap, "", 1)


def test_an_answer_without_framing_ends_with_its_connection():
    """HTTP/1.0 style: the server closes, and that is the end of a good answer."""
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}"
    found, server = exchanges(always(raw, times=1), 2)

    assert ([e.failure for e in found], server.connections) == (["", ""], 2)


def test_connection_close_is_obeyed():
    """A server that says it will close is not sent another request on that connection."""
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    found, server = exchanges(always(raw, times=1), 3)

    assert ([e.failure for e in found], server.connections) == ([""] * 3, 3)


def test_a_server_that_closes_between_requests_costs_no_request():
    """A request written to a connection that the server was just closing goes out once more, and says so."""

    async def answer(server, reader, writer):
        server.requests.append(await read_request(reader))
        writer.write(OK)
        await writer.drain()
        if server.connections == 1:
            await reader.readexactly(1)  # the next request has begun: close without an answer
        else:
            await read_request(reader)

    (first, second), server = exchanges(answer, 2)

    assert (first.failure, second.failure, second.resends, server.connections) == ("", "", 1, 2)


def test_interim_answers_are_not_the_answer():
    """100 and 103 are passed over, also when they come in a read of their own."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    found, server = exchanges(always(OK, pieces=[interim, OK]), 2)
    together, _ = exchanges(always(interim + OK), 2)

    assert ([e.failure for e in found + together], server.connections) == ([""] * 4, 1)
    assert decoded(together[0]).token_ids == (1, 2)


async def _reset(_server, reader, writer):
    await read_request(reader)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def _silent(_server, reader, _writer):
    await reader.read()


async def _endless(_server, reader, writer):
    await read_request(reader)
    writer.write(OK[:-40])
    await writer.drain()
    await reader.read()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (always(OK[:-20], times=1), "truncated"),
        (always(OK[: OK.index(b"data")], times=1), "truncated"),
        (_reset, "reset"),
        (_silent, "timeout"),
        (_endless, "timeout"),
        (always(b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!"), "http_404"),
        (always(b"220 smtp.example ESMTP\r\n"), "bad_http"),
        (always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n\r\n"), "bad_http"),
        (always(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"), "bad_http"),
        (always(b"HTTP/1.1 200 OK\r\n" + b"X-Pad: 1\r\n" * 9000), "bad_http"),
        (always(b"HTTP/1.1 100 Continue\r\n\r\n" * 20), "bad_http"),
        (always(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(18 << 20)), "too_long"),
        (always(b"HTTP/1.1 500 No\r\n\r\nsorry" + bytes(2 << 20)), "too_long"),
        (always(b"HTTP/1.1 307 No\r\nLocation: http://b/\r\nContent-Length: 0\r\n\r\n"), "http_307"),
        (always(b'HTTP/1.1 400 No\r\nContent-Length: 14\r\n\r\n{"error":"\xff"}}'), "http_400"),
        (always(chunked(b"data: {\n\n", b"data: [DONE]\n\n")), "bad_event"),
        (always(answered('{"error": {"message": "dead"}}')), "stream_error"),
        (always(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"), "not_json"),
    ],
)
def test_every_way_to_fail_is_a_record_with_a_name(answer, error):
    """Whatever a server does, the request ends once, with a short stable name."""
    timeout_ns = 300_000_000 if error == "timeout" else 60_000_000_000  # a busy machine may be slow to send floods
    (one,), _ = exchanges(answer, timeout_ns=timeout_ns)

    assert decoded(one).error == error
    assert one.done_ns >= one.sent_ns
    assert sum(map(len, one.pieces)) <= bounds.KEPT_BYTES


def test_a_flood_in_small_reads_is_counted_from_time_to_time():
    """Reads beyond those that the tokens explain are weighed, each once; the flood ends, its neighbour does not."""

    async def main():
        clock = MonotonicClock(asyncio.get_running_loop())
        client = Client(Target("http", "h", 1, ""), clock, TIMEOUT_NS)
        ended = []
        for asked, reads in ((10, 5000), (5000, 5000)):
            connection, one = Connection(client), InFlightRequest(asked, b"", 0, ended.append)
            one.asked, one.pieces, one.stamps = asked, [bytes(8000)] * reads, [1] * reads
            connection._exchange = one
            client._busy[one] = connection
        client._sweep()
        await client.close()
        return [(one.asked, one.failure) for one in ended]

    assert run(main) == [(10, "too_long")]


def test_every_address_of_a_name_is_tried(monkeypatch):
    """Where the first of a name's addresses refuses, the next is taken, and from then on tried first."""

    async def main():
        async with Server(always(OK)) as server:
            loop = asyncio.get_running_loop()
            client = Client(Target("http", "two.test", server.port, ""), MonotonicClock(loop), TIMEOUT_NS)
            client._addresses = [
                (socket.AF_INET, host, server.port) for host in ("127.0.0.2", "127.0.0.3", "127.0.0.1")
            ]
            found = [await exchange_on(client, client._target, seq) for seq in range(2)]
            await client.close()
            return [one.failure for one in found], client._addresses[0][1], server.connections

    assert run(main) == (["", ""], "127.0.0.1", 1)


def test_refused_connections_are_records():
    """Where nothing listens every request fails by itself, and says so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def main():
        target = Target("http", "127.0.0.1", port, "")
        client = Client(target, MonotonicClock(asyncio.get_running_loop()), TIMEOUT_NS)
        one = await exchange_on(client, target)
        await client.close()
        return one

    one = run(main)
    assert (one.failure, one.sent_ns) == ("refused", -1)


def test_cancel_ends_everything_in_flight():
    """Exchanges on connections and exchanges still connecting are cancelled, each once."""

    async def main():
        async with Server(_silent) as server:
            target = Target("http", "127.0.0.1", server.port, "")
            client = Client(target, MonotonicClock(asyncio.get_running_loop()), TIMEOUT_NS)
            await client.open(2)
            waiting = [asyncio.ensure_future(exchange_on(client, target, seq)) for seq in range(4)]
            await asyncio.sleep(0)
            client.cancel_all()
            found = await asyncio.gather(*waiting)
            left = client.in_flight
            await client.close()
            return found, left

    found, left = run(main)
    assert ([e.failure for e in found], left) == (["cancelled"] * 4, 0)


def test_an_unknown_host_is_told_before_any_request():
    """A name that no one knows is an engine error, not ten thousand failed requests."""

    async def main():
        client = Client(Target("http", "no-such-host.invalid", 80, ""), MonotonicClock(asyncio.get_running_loop()), 1)
        try:
            await client.resolve()
        finally:
            await client.close()

    with pytest.raises(EngineError, match="no-such-host"):
        run(main)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


def test_tls_works_and_is_verified(certificate, monkeypatch):
    """The same over TLS with a trusted certificate; an untrusted one is a failure named tls."""
    key, cert = certificate
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(cert, key)
    distrusted, _ = exchanges(always(OK), 1, tls=serving, host="localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    trusted, server = exchanges(always(OK), 3, tls=serving, host="localhost")

    assert distrusted[0].failure == "tls"
    assert "SSL_CERT_FILE" in distrusted[0].message
    assert ([e.failure for e in trusted], server.connections) == ([""] * 3, 1)
    assert decoded(trusted[2]).token_ids == (1, 2)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1/v1/", "http://h:1"),
        ("h:80", "http://h:80"),
        ("https://h/base", "https://h:443/base"),
        ("http://[::1]:9", "http://[::1]:9"),
    ],
)
def test_addresses_are_understood(url, expected):
    """A scheme may be missing, /v1 may be there, a path may stand before it."""
    assert target_of(url).url == expected


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:port", "http://me:secret@h/"])
def test_addresses_that_are_none_are_refused_without_their_secrets(url):
    """One line, and a password is not repeated in it."""
    with pytest.raises(InputError) as caught:
        target_of(url)

    assert "secret" not in str(caught.value)


def test_the_request_is_whole_before_it_is_sent():
    """Method, path under the base, host, headers, length and body, as bytes."""
    target = target_of("http://h:8/base", (("Authorization", "Bearer k"),))
    raw = post_bytes(target, "/v1/completions", b'{"a":1}')

    assert raw.startswith(b"POST /base/v1/completions HTTP/1.1\r\nHost: h:8\r\nAuthorization: Bearer k\r\n")
    assert b"\r\nAccept-Encoding: identity\r\n" in raw
    assert raw.endswith(b'Content-Length: 7\r\n\r\n{"a":1}')


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", True), ("::1", True), ("192.0.2.1", False)])
def test_a_server_on_this_host_is_known_as_such(host, own):
    """An address that can be bound here is this host's; a documentation address (RFC 5737) is nobody's."""

    async def main():
        url = f"http://[{host}]" if ":" in host else f"http://{host}"
        client = Client(target_of(url), MonotonicClock(asyncio.get_running_loop()), 1)
        await client.resolve()
        shares_host = client.shares_host
        await client.close()
        return shares_host

    assert asyncio.run(main()) is own
