"""What every exporter must do: hand on every number, in both kinds of messages, and end; and collectors to hear it."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.export.delivery import exporter_of
from harness.export.points import LIVE, OUTCOMES, TOKEN_USAGE, Point, Snapshot

ATTRIBUTES = {
    "npu_harness.run": "made", "npu_harness.simulated": True,
    "gen_ai.request.model": "m", "npu_harness.engine": "simulator",
}  # fmt: skip
STAGE = {"npu_harness.stage": 1, "npu_harness.repeat": 1, "npu_harness.load": "poisson 2 req/s"}


def live():
    """Figures of a run under way."""
    return Snapshot("made", ATTRIBUTES, [Point(LIVE[0], 7.0, {"npu_harness.stage": 1, "npu_harness.repeat": 1}, 5)])


def result(*files):
    """Metrics of a finished run: two series of one name, and another name."""
    points = [
        Point(TOKEN_USAGE, 1200.0, {**STAGE, "gen_ai.token.type": "input"}),
        Point(TOKEN_USAGE, 340.0, {**STAGE, "gen_ai.token.type": "output"}),
        Point(OUTCOMES, 3.0, {**STAGE, "npu_harness.outcome": "failed"}),
    ]
    return Snapshot("made", ATTRIBUTES, points, files)


def check_exporter(word, received, files=()):
    """An exporter sends live figures and a result; `received()` are the values and marks that its collector has then.

    Args:
        word: what stands behind --export.
        received: gives (values, marks): every value, and the text of every attribute.
        files: what is kept beside the result.
    """
    name, exporter = exporter_of(word)
    assert word.startswith(name)
    exporter.live(live())
    values, _ = received()
    assert 7.0 in values
    exporter.result(result(*files))
    exporter.close()
    values, marks = received()
    assert {1200.0, 340.0, 3.0} <= set(values)
    assert {"made", "m", "simulator"} <= {str(mark) for mark in marks}
    assert {"true"} & {str(mark).lower() for mark in marks}  # that it is simulated


def check_needs_nobody(word, lines):
    """A collector that is not there: one line, whatever was sent, and no exception.

    Args:
        word: what stands behind --export, of an address where nobody listens.
        lines: sends live figures and a result through `exporting`, and gives the lines that were told.
    """
    (line,) = lines(word)
    assert str(line).startswith(f"--export {word.partition('=')[0]}: ")
    assert str(line).endswith("the run is not affected")


@contextlib.contextmanager
def collector(answer):
    """An HTTP server of this process; yields its address and the (path, body) of every request."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            heard.append((self.path, self.headers, body))
            code, reply = answer(self.path)
            self.send_response(code)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_PUT = do_POST  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_):
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def nobody():
    """An address of this machine where nobody listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return f"127.0.0.1:{server.server_address[1]}"
