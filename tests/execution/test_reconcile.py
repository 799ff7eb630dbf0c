"""Every planned request is accounted for, whatever was sent, answered, cut or killed."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.client.connection import InFlightRequest
from harness.client.journal import AnswerJournal, SentJournal
from harness.execution.reconcile import reconcile
from harness.results import store, table_files
from harness.results.request_table import STATUSES
from harness.scenario.stages import Stage
from harness.workload import plan
from harness.workload.plan import StagePlan
from tests.fakes import answered, event

ZERO_NS = 10**15
FATES = ("unsent", "lost", "completed", "failed", "cancelled")


def write_raw(folder, fates, workers=1):
    """The raw files of one constant stage whose i-th request had the i-th fate."""
    raw = folder / store.RAW
    raw.mkdir()
    due_ns = np.arange(len(fates), dtype=np.int64) * 1000
    stage = Stage("constant", rate=1e6, requests=len(fates))
    plan.save(raw / "plan.npz", (StagePlan(0, 0, 0, stage, 50, 0, len(fates), 0, 0, due_ns),), None)
    (raw / store.BEGUN).write_text(json.dumps({"number": 0, "begin_ns": ZERO_NS}) + '\n{"cut')
    for worker in range(workers):
        _write_worker(raw, worker, [(i, fate) for i, fate in enumerate(fates) if i % workers == worker])


def _write_worker(raw, worker, shares):
    ledger, spool, seqs = (
        SentJournal(raw / f"ledger-{worker}.bin"),
        AnswerJournal(raw / f"spool-{worker}.bin"),
        itertools.count(),
    )
    for ordinal, fate in shares:
        if fate == "unsent":
            continue
        due_ns = ZERO_NS + ordinal * 1000
        one = InFlightRequest(next(seqs), b"", due_ns, lambda _: None)
        one.sent_ns, one.done_ns = due_ns + 10, due_ns + 500
        ledger.write(one.seq, (0, 0, 50 + ordinal, 0, 1, 0), (8, 2, 300), (due_ns, due_ns, one.sent_ns))
        if fate != "lost":
            whole = answered(event(ids=[1]), event(ids=[2]))
            one.pieces, one.stamps = [whole[:-40] if fate == "failed" else whole], [due_ns + 400]
            one.failure = {"failed": "reset", "cancelled": "cancelled"}.get(fate, "")
            spool.append(one)
    spool.close()
    ledger.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(FATES), min_size=1, max_size=12), st.integers(1, 3))
def test_scheduled_is_the_sum_of_all_fates(tmp_path_factory, fates, workers):
    """Each planned request is one row, with the status of its fate, whatever the number of workers."""
    folder = tmp_path_factory.mktemp("run")
    write_raw(folder, fates, workers)
    reconcile(folder)
    requests = table_files.read_requests(folder)

    expected = {"unsent": "never_sent", "lost": "cancelled"}
    assert requests.session.tolist() == [50 + i for i in range(len(fates))]
    assert requests.status.tolist() == [expected.get(fate, fate) for fate in fates]
    assert sum((requests.status == status).sum() for status in STATUSES) == len(fates)
    assert [error for error, fate in zip(requests.error, fates, strict=True) if fate == "lost"] == [
        "lost"
    ] * fates.count("lost")


def test_times_count_from_the_runs_zero(tmp_path):
    """Due, sent, token and end times are nanoseconds since the first stage began."""
    write_raw(tmp_path, ["completed", "completed"], workers=2)
    reconcile(tmp_path)
    requests, events = table_files.read_requests(tmp_path), table_files.read_events(tmp_path)

    assert requests.due_ns.tolist() == [0, 1000]
    assert requests.sent_ns.tolist() == [10, 1010]
    assert [at.tolist() for at, _ in map(events.of, range(2))] == [[400, 400], [1400, 1400]]
    assert (requests.first_ns.tolist(), requests.done_ns.tolist()) == ([400, 1400], [500, 1500])
    assert requests.worker.tolist() == [0, 1]


def test_the_timeline_says_when_a_stage_was_measured(tmp_path):
    """From its begin to the last request sent, and on to the last answer."""
    write_raw(tmp_path, ["completed", "completed", "unsent"])
    reconcile(tmp_path)

    assert store.read_json(tmp_path, store.TIMELINE) == [
        {"stage": 0, "repeat": 0, "start_ns": 0, "stop_ns": 1010, "end_ns": 1500}
    ]


def test_turns_that_were_never_reached_are_never_sent(tmp_path):
    """A conversation of three turns whose first failed leaves two turns that were planned and not sent."""
    write_raw(tmp_path, ["failed"])
    plans, _ = plan.load(tmp_path / store.RAW / "plan.npz")
    plan.save(tmp_path / store.RAW / "plan.npz", plans, np.asarray([3]))
    reconcile(tmp_path)
    requests = table_files.read_requests(tmp_path)

    assert list(zip(requests.turn, requests.status, strict=True)) == [
        (0, "failed"),
        (1, "never_sent"),
        (2, "never_sent"),
    ]


def test_a_run_killed_before_its_first_stage_is_all_never_sent(tmp_path):
    """The plan alone is enough for an account."""
    write_raw(tmp_path, ["unsent", "unsent"])
    (tmp_path / store.RAW / store.BEGUN).unlink()
    reconcile(tmp_path)

    assert table_files.read_requests(tmp_path).status.tolist() == ["never_sent", "never_sent"]
    assert store.read_json(tmp_path, store.TIMELINE) == []


@pytest.mark.parametrize("name", ["requests.parquet", "events.parquet"])
def test_tables_come_back_as_they_went(tmp_path, name):
    """Writing what was read gives the same file content again."""
    write_raw(tmp_path, list(FATES))
    reconcile(tmp_path)
    requests, events = table_files.read_requests(tmp_path), table_files.read_events(tmp_path)
    (tmp_path / name).unlink()
    table_files.write_requests(tmp_path, requests)
    table_files.write_events(tmp_path, requests.index, events)
    again, events_again = table_files.read_requests(tmp_path), table_files.read_events(tmp_path)

    assert again.status.tolist() == requests.status.tolist()
    assert again.first_ns.tolist() == requests.first_ns.tolist()
    assert events_again.at_ns.tolist() == events.at_ns.tolist()
