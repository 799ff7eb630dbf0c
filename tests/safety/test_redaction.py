"""Secrets stay out of everything that is written or printed."""

import itertools

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.app import main
from harness.client.answer_decoding import decode
from harness.errors import InputError
from harness.safety import redaction
from harness.safety.redaction import (
    blank_secrets,
    names_secret,
    redact,
    redact_file,
    register_environment,
    register_password,
    register_secret,
)
from tests.execution.test_run import scenario
from tests.fakes import answered
from tests.odd_server import OddServer, sized

SECRET = "sk-this-must-never-be-written-4711"
MODELS = sized('{"data": [{"id": "m"}]}')
BURST = [{"constant": {"rate": 20, "requests": 5}}]


@pytest.fixture(autouse=True)
def nothing_known():
    """Each test knows only its own secrets."""
    redaction.forget_secrets()
    yield
    redaction.forget_secrets()


def test_known_secrets_are_named_where_they_stood():
    """A long secret goes wherever it stands, a short one only as a word; what is not known stays."""
    register_secret("hunter22x", "PASSWORD")
    register_secret("abc", "KEY")

    assert redact("xhunter22x abc abcd") == "x<PASSWORD> <KEY> abcd"
    assert InputError("no abc").lines == ("no <KEY>",)


def test_foreign_words_stay_on_one_line():
    """A model named with line ends, terminal codes or turned text cannot write lines or colours of its own."""
    assert InputError("serves a\nharness: ok\x1b[31m, b\u202e").lines == ("serves a harness: ok [31m, b ",)


def test_secrets_are_found_in_environment_and_addresses():
    """By the names that hold secrets, where the value is long enough to be one; passwords decoded and not."""
    register_environment({"HF_TOKEN": "hf_0123456789", "MY_API_KEY": "short", "HOME": "/home/somebody"})
    register_password("postgresql://me:p%40ssword@h/db")

    assert redact("hf_0123456789 short /home/somebody p@ssword") == "<HF_TOKEN> short /home/somebody <password>"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("Authorization", True), ("X-Api-Key", True), ("api-version", False), ("X-Tenant", False), ("Cookie", True),
     ("X-Auth-Token", True), ("key", True), ("max_tokens", False)],
)  # fmt: skip
def test_names_tell_secrets(name, is_one):
    """Headers and parameters that usually hold a secret are told by their names."""
    assert names_secret(name) == is_one


def test_a_secret_is_found_as_addresses_and_headers_carry_it():
    """Percent-encoded in an address, and in lower case where a header's value was made so."""
    register_secret("sK/7+Secret", "KEY")

    assert redact("http://h/?k=sK%2F7%2BSecret and sk/7+secret") == "http://h/?k=<KEY> and <KEY>"


@given(st.integers(0, 400), st.sampled_from(["401 No", "200 OK", "200 {key}", "HTTP {key}"]), st.booleans())
def test_no_message_is_cut_inside_a_secret(before, status, chunked):
    """Whatever stands before it, and wherever: no half of a secret is left by a cut."""
    register_secret(SECRET, "KEY")
    pad, line = "x" * before, status.replace("{key}", "x" * before + SECRET)
    body = f"{pad[:9]}\r\n{pad}{SECRET}" if chunked else pad + SECRET
    more = ["Transfer-Encoding: chunked"] if chunked else []
    raw = "\r\n".join([line if line.startswith("HTTP") else f"HTTP/1.1 {line}", *more, "", body]).encode()

    assert "sk-th" not in decode([raw], [1]).message


@given(st.lists(st.sampled_from([b"", b"a", b"s3cr", b"et99", b"s3cret99", b"bb"])))
def test_blanked_pieces_keep_their_lengths(pieces):
    """No byte moves to another piece, and no secret is left, wherever it was cut."""
    register_secret("s3cret99", "KEY")
    clean = blank_secrets(pieces)

    assert [len(piece) for piece in clean] == [len(piece) for piece in pieces]
    assert b"s3cret99" not in b"".join(clean)


def test_a_log_keeps_its_lines_without_the_secret(tmp_path, monkeypatch):
    """Also where the secret lies across the blocks that are read."""
    monkeypatch.setattr(redaction, "_BLOCK", 256)
    register_secret(SECRET, "KEY")
    log = tmp_path / "engine.log"
    log.write_text(f"{'x' * 240}{SECRET}\n{'y' * 500}{SECRET}")
    redact_file(log)

    assert SECRET not in log.read_text()
    assert len(log.read_text()) == 240 + len(SECRET) + 501 + len(SECRET)


def _telling_back():
    """Answers that hold the request's key: in a body, a stream, a header, a Location, a status line."""
    turn = itertools.count()

    def answer(path, head, body):
        if path != "/v1/completions":
            return MODELS if path == "/v1/models" else sized("", "404 No")
        key = head.partition("X-Key: ")[2].partition("\r\n")[0]
        ways = (
            sized(f'{{"error": {{"message": "bad key {key}"}}}}', "401 No"),
            answered('{"error": {"message": "bad key ' + key + '"}}'),
            sized("no", "401 No", f"WWW-Authenticate: {key}"),
            sized("", "307 No", f"Location: http://h/?key={key}"),
            f"HTTP/1.1 2x {key}\r\n\r\n".encode(),
        )
        return ways[next(turn) % len(ways)]

    return answer


def test_a_server_that_tells_the_key_back_gets_it_written_nowhere(tmp_path, capfd, monkeypatch):
    """Neither files, decoded or not, nor output hold what a header had from the environment."""
    monkeypatch.setenv("CHECK_HEADER", SECRET)
    headers = {"X-Key": {"from_env": "CHECK_HEADER"}, "X-Tenant": "perf"}
    with OddServer(_telling_back()) as server:
        engine = {"kind": "attach", "url": server.url, "headers": headers}
        path, out = scenario(tmp_path, BURST, engine=engine, workers=1), tmp_path / "out"
        with pytest.raises(SystemExit):
            main(["run", str(path), "--out", str(out)])
        heads = [head for _, head, _ in server.seen]

    said = capfd.readouterr()
    messages = pq.read_table(out / "requests.parquet")["message"].to_pylist()
    assert all(f"X-Key: {SECRET}\r\n" in head and "X-Tenant: perf" in head for head in heads)
    assert SECRET not in said.out + said.err + str(messages)
    assert all(SECRET.encode() not in file.read_bytes() for file in out.rglob("*") if file.is_file())
    assert sum("<CHECK_HEADER>" in one or "*****" in one for one in messages) == 4, messages
