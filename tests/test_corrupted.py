"""Does a result folder with a broken file end in one line, and never in a traceback?"""

import contextlib
import json
import shutil

import pytest

from harness import store
from harness.comparing.sides import read_side
from harness.errors import HarnessError
from harness.finish import finish
from reports.data import gather
from reports.folder import read
from tests.made_runs import columns, hand_made, run_json, span_row
from tests.result_folder import write_result

FILES = (store.RUN, store.SUMMARY, store.TIMELINE, store.REQUESTS, store.EVENTS)
VALUES = (None, "x", -1, 10**400, [], {}, True, [None], {"x": None})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run of five requests made by hand."""
    folder = tmp_path_factory.mktemp("made")
    load = {"kind": "poisson", "rate": 1.0, "duration_s": 4.0}
    return write_result(folder / "made", run_json([load]), columns(hand_made()), [span_row(0, 4, 4)])


def read_all(folder):
    """What `harness report` and `harness compare` read, without drawing; a fault that is told is right."""
    for step in (lambda: finish(folder), lambda: gather(read(folder)), lambda: read_side(folder)):
        with contextlib.suppress(HarnessError):
            step()


def broken_bytes(whole):
    """A file that is empty, cut, of other bytes, or followed by rubbish."""
    yield from (b"", whole[: len(whole) // 2], whole[:-1], bytes(range(256)), whole + b"\0x", b"[" * 5000)


def broken_values(value):
    """A JSON value with one key of its first levels left out or replaced."""
    yield from VALUES
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, inner in items:
        copy = dict(value) if isinstance(value, dict) else list(value)
        del copy[key]
        yield copy
        for other in VALUES:
            copy = dict(value) if isinstance(value, dict) else list(value)
            copy[key] = other
            yield copy
        if isinstance(inner, dict | list) and inner:
            for other in broken_values(inner) if not isinstance(value, dict) or key in ("verdict", "stages") else ():
                copy = dict(value) if isinstance(value, dict) else list(value)
                copy[key] = other
                yield copy


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_told_in_a_line(made, tmp_path, name):
    """Empty, cut, of random bytes, or a folder: one line and exit 2, or a result without it."""
    whole = (made / name).read_bytes()
    for number, content in enumerate(broken_bytes(whole)):
        folder = shutil.copytree(made, tmp_path / str(number))
        (folder / name).write_bytes(content)
        read_all(folder)
    folder = shutil.copytree(made, tmp_path / "folder")
    (folder / name).unlink()
    (folder / name).mkdir()
    read_all(folder)


@pytest.mark.parametrize("name", [store.RUN, store.TIMELINE])
def test_a_wrong_value_is_told_in_a_line(made, tmp_path, name):
    """Every key left out, and of every other kind."""
    folder = shutil.copytree(made, tmp_path / "made")
    for value in broken_values(json.loads((made / name).read_text())):
        (folder / name).write_text(json.dumps(value))
        read_all(folder)
