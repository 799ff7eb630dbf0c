"""Sessions of a trace: which requests belong together, what each waits for, and which blocks they share."""

import itertools
import json

import pytest

from harness.errors import InputError
from harness.units import NS_PER_MS, NS_PER_S
from harness.workload.draws import random_source
from harness.workload.synthetic import RandomIds, TokenMedium
from harness.workload.trace import TraceContents, read_trace

TOKENS = {"input_length": 600, "output_length": 9}
SESSION = [
    {**TOKENS, "session": "a", "id": 1, "timestamp": 5000, "hash_ids": [1, 2]},
    {**TOKENS, "session": "b", "timestamp": 1000, "input_length": 512, "hash_ids": [1]},
    {**TOKENS, "session": "a", "id": 2, "parent": 1, "delay": 250, "input_length": 1100, "hash_ids": [1, 2, 3]},
    {**TOKENS, "session": "a", "id": 3, "parent": 1, "input_length": 700, "hash_ids": [1, 9]},
    {**TOKENS, "session": "a", "id": 4, "parent": [2, 3], "delay": 10, "input_length": 1600, "hash_ids": [1, 2, 3, 4]},
    {**TOKENS, "session": "a", "parent": None, "timestamp": 9000, "input_length": 20},
    {**TOKENS, "session_id": "b", "delay": 40, "input_length": 700, "hash_ids": [1, 7]},
    {**TOKENS, "timestamp": 2000, "input_length": 30},
]


def session_trace(folder, rows=SESSION):
    """The trace of such rows."""
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_trace(path)


def contents_of(trace):
    """Its contents as token ids."""
    return TraceContents(
        trace, TokenMedium(RandomIds(256, 4000)), random_source(1, "block"), random_source(1, "prompt")
    )


def test_sessions_of_a_trace_begin_in_order_with_their_parents_and_tools(tmp_path):
    """Rows of a session hang together by id and parent, else in the order of the file; other rows are by themselves."""
    trace = session_trace(tmp_path)
    contents = contents_of(trace)
    first, second, third = (contents.session(index) for index in range(3))

    assert trace.due_ns.tolist() == [0, 1 * NS_PER_S, 4 * NS_PER_S]
    assert [(turn.input_tokens, turn.parents, turn.think_ns) for turn in first.turns] == [
        (512, (), 0),
        (700, (0,), 40 * NS_PER_MS),
    ]
    assert [turn.input_tokens for turn in second.turns] == [30]
    assert [(turn.parents, turn.think_ns // NS_PER_MS) for turn in third.turns] == [
        ((), 0), ((0,), 250), ((0,), 0), ((1, 2), 10), ((), 4000)
    ]  # fmt: skip


def test_a_trace_whose_rows_wait_for_themselves_is_told_why(tmp_path):
    """Where no row can be used, the reason is that of the rows, not that they have no tokens."""
    with pytest.raises(
        InputError, match="no row can be used: their parent is not among the rows of the session before"
    ):
        session_trace(tmp_path, [{**TOKENS, "session": "a", "id": 1, "parent": 1, "timestamp": 0}])


def test_prompts_share_exactly_the_blocks_whose_hashes_are_equal(tmp_path):
    """Over sessions and turns, in a pass; in the next pass all blocks are others."""
    contents = contents_of(session_trace(tmp_path))
    ids = {
        (index, turn): contents.prompt(index, turn, ()).ids
        for index, turns in ((0, 2), (2, 5))
        for turn in range(turns)
    }
    rows = {(0, 0): [1], (0, 1): [1, 7], (2, 0): [1, 2], (2, 1): [1, 2, 3], (2, 2): [1, 9], (2, 3): [1, 2, 3, 4]}
    for one, other in itertools.product(rows, rows):
        for place, (a, b) in enumerate(zip(rows[one], rows[other], strict=False)):
            size = min(len(ids[one]), len(ids[other]), 512 * (place + 1)) - 512 * place
            parts = [ids[key][512 * place : 512 * place + size].tolist() for key in (one, other)]
            assert (parts[0] == parts[1]) == (a == b)
    assert contents.prompt(3, 0, ()).ids[:512].tolist() != ids[0, 0][:512].tolist()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"parent": 77}, "workload.parent_left_out"),
        ({"parent": None}, "workload.session_without_time"),
        ({"delay": -1}, "workload.not_readable"),
    ],
)
def test_a_row_that_hangs_on_nothing_is_left_out_and_said(tmp_path, change, code):
    """With what hangs on it; the others stay."""
    rows = [row | change if row.get("id") == 2 else row for row in SESSION]
    trace = session_trace(tmp_path, rows)

    assert [len(session.places) for session in trace.sessions] == [2, 1, 3]
    assert code in {note.parameters["reason"].code for note in trace.skipped}


def test_a_second_row_of_an_id_is_left_out_and_said(tmp_path):
    """What waits for that id waits for the first row; ids of other sessions are their own."""
    second = next(row for row in SESSION if row.get("id") == 2)
    trace = session_trace(tmp_path, [*SESSION, second])
    plain = session_trace(tmp_path, SESSION)

    assert [len(session.places) for session in trace.sessions] == [len(session.places) for session in plain.sessions]
    assert {note.parameters["reason"].code for note in trace.skipped} == {"workload.id_left_out"}
