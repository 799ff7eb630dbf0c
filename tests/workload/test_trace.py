"""Recorded traces are read with their own units, and faults reported by file and line."""

import re
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.workload import trace as traces
from harness.workload.trace import read_trace

DATA = Path(__file__).parent.parent / "data"


def written(tmp_path, text, name="trace.csv"):
    """A trace file of this text."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_mooncake_times_are_milliseconds_and_blocks_512():
    """Due times count from the first request; hashes name blocks of 512 tokens."""
    trace = read_trace(DATA / "mooncake.jsonl")

    assert trace.format == "mooncake"
    assert trace.due_ns.tolist() == [0, 0, 3_053_000_000, 3_154_000_000]
    assert trace.input_tokens.tolist() == [1100, 1030, 700, 400]
    assert trace.output_tokens.tolist() == [52, 1, 26, 9]
    assert trace.block_tokens == 512
    assert trace.hash_ids is not None
    assert [ids.tolist() for ids in trace.hash_ids] == [[46, 47, 48], [46, 47, 49], [46, 50], []]


def test_bailian_has_the_same_fields_in_other_units():
    """The same field names, but seconds and blocks of 16: taken for Mooncake it would be 1000 times too fast."""
    trace = read_trace(DATA / "bailian.jsonl")

    assert (trace.format, trace.block_tokens) == ("bailian", 16)
    assert trace.due_ns.tolist() == [0, 1_750_000_000]


def test_burstgpt_failures_are_skipped_and_counted():
    """Rows without response tokens are failures of the recorded service, not requests for nothing."""
    trace = read_trace(DATA / "burstgpt.csv")

    assert trace.due_ns.tolist() == [0, 40_000_000_000, 113_500_000_000]
    assert trace.input_tokens.tolist() == [472, 1087, 1360]
    assert trace.output_tokens.tolist() == [18, 230, 203]
    assert [str(note) for note in trace.skipped] == ["1 row of the file left out: no output tokens."]
    assert trace.hash_ids is None


def test_azure_dates_keep_all_their_digits():
    """Seven fractional digits, as .NET writes them, are exact to 100 ns, also over midnight."""
    trace = read_trace(DATA / "azure.csv")

    assert trace.due_ns.tolist() == [0, 52_000_100, 2_020_040_000]
    assert trace.output_tokens.tolist() == [10, 8, 27]


@given(
    moment=st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1)),  # noqa: DTZ001 - offset added
    nanos=st.integers(0, 999),
    offset=st.sampled_from(["", "Z", "+00:00", "+08:00", "-0330"]),
)
def test_dates_agree_with_the_standard_library(moment, nanos, offset):
    """A date with any offset is the same instant that datetime makes of it, plus its last digits."""
    text = moment.strftime("%Y-%m-%d %H:%M:%S") + f".{moment.microsecond:06d}{nanos:03d}" + offset
    hours = {"": 0, "Z": 0, "+00:00": 0, "+08:00": 8, "-0330": -3.5}[offset]
    since = moment.replace(microsecond=0, tzinfo=timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    expected = (since.days * 86_400 + since.seconds - round(hours * 3600)) * 10**9 + moment.microsecond * 1000 + nanos

    assert traces._date_ns(Path("x"), 1, text) == expected


def test_rows_come_in_order_of_time(tmp_path):
    """A file that is not sorted is put in order; rows of one time keep theirs."""
    path = written(tmp_path, "Timestamp,Request tokens,Response tokens\n9,1,1\n2,2,2\n9,3,3\n")
    trace = read_trace(path)

    assert trace.due_ns.tolist() == [0, 7_000_000_000, 7_000_000_000]
    assert trace.input_tokens.tolist() == [2, 1, 3]


def test_a_limit_counts_usable_rows():
    """The first rows are read, and skipped ones take no room."""
    assert len(read_trace(DATA / "burstgpt.csv", limit=3)) == 3
    assert len(read_trace(DATA / "burstgpt.csv", limit=2)) == 2


def test_rows_without_input_are_skipped(tmp_path):
    """A prompt of no tokens cannot be sent."""
    path = written(
        tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00+00:00,0,5\n2024-05-10 00:00:01,4,5\n"
    )

    assert [str(note) for note in read_trace(path).skipped] == ["1 row of the file left out: no input tokens."]


BURST = "Timestamp,Request tokens,Response tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
FLOATS = """{"timestamp": 0.0, "input_length": 20.0, "output_length": 4.0, "hash_ids": [0]}
{"timestamp": 100.5, "input_length": 21, "output_length": 4, "hash_ids": null}"""
MOON = '{"timestamp": 1, "input_length": 4, "output_length": 2}\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BURST + "1,2,3\n1,2\n", r"trace.csv:3: Response tokens is ''; expected a number"),
        (MOON + MOON.replace("4,", f"{10**30},"), r":2: input_length is 10{30}; expected a whole number of tokens"),
        (BURST + "1,2,3\n1e300,2,3\n", r":3: Timestamp is '1e300'; expected a number"),
        (MOON + MOON.replace("1,", "1e305,"), r":2: timestamp is 1e\+305; expected a number"),
        (MOON + "{", r":2: not JSON \(.*\); expected a JSON object a line with timestamp, input_length"),
        (MOON + "[1]", r":2: found list; expected a JSON object a line"),
        (MOON + MOON.replace("4", '"4"'), r":2: input_length is '4'; expected a whole number of tokens"),
        (MOON + MOON.replace("4", "-4"), r":2: input_length is -4; expected a whole number of tokens"),
        (MOON + MOON.replace('"timestamp": 1, ', ""), r":2: timestamp is missing; expected a number"),
        (MOON + MOON.replace('"output_length": 2', '"output_length": 2, "hash_ids": "ab"'), r":2: hash_ids is 'ab'"),
        (
            MOON + MOON.replace("2}", f'2, "hash_ids": [{2**70}]}}'),
            r":2: hash_ids is \[\d+\]; expected a list of whole",
        ),
        (MOON + "[" * 9999, r":2: not JSON"),
    ],
)
def test_an_odd_row_is_skipped_and_counted(text, told, tmp_path):
    """The other rows are read; the first odd one is told with its place, what stands there and what was expected."""
    trace = read_trace(written(tmp_path, text))

    assert len(trace) == 1
    (note,) = map(str, trace.skipped)
    assert note.startswith("1 row of the file left out: not readable, first trace.csv")
    assert re.search(told, note)


@pytest.mark.parametrize(
    ("text", "due_s", "inputs", "outputs"),
    [
        (FLOATS, [0, 0.1005], [20, 21], [4, 4]),
        (MOON.replace("4", "null") + MOON, [0], [4], [2]),
        ('\ufeff"Timestamp","Request tokens","Response tokens"\r\n"5","20","4"\r\n\r\n6.5,21.0,5.0\r\n',
         [0, 1.5], [20, 21], [4, 5]),
        ('Timestamp,Session ID,Elapsed,Model,Request tokens,Response tokens\n5,s1,3.2,"a, b",20,4\n6,,,x,21,5\n',
         [0, 1], [20, 21], [4, 5]),
        ("\nTimestamp,Request tokens,Response tokens\n5,20,4\n", [0], [20], [4]),
    ],
)  # fmt: skip
def test_other_spellings_of_a_trace_are_read(text, due_s, inputs, outputs, tmp_path):
    """20.0 is 20; a header may be quoted, end in CRLF, begin with a mark or a blank line, and have other columns."""
    path = tmp_path / "trace.csv"
    path.write_bytes(text.encode())
    trace = read_trace(path)

    assert trace.due_ns.tolist() == [round(second * 1e9) for second in due_s]
    assert (trace.input_tokens.tolist(), trace.output_tokens.tolist()) == (inputs, outputs)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("a,b,c\n1,2,3\n", r":1: not a known trace; expected a JSON object a line with timestamp"),
        ('{"a": 1}\n', r":1: not a known trace"),
        (BURST + "x,2,3\n", r":2: Timestamp is 'x'; expected a number"),
        (BURST + "nan,2,3\n", r":2: Timestamp is 'nan'; expected a number"),
        (BURST + "1,2.5,3\n", r":2: Request tokens is '2.5'; expected a whole number of tokens"),
        (BURST + "1,2,-3\n", r":2: Response tokens is '-3'; expected a whole number of tokens"),
        (BURST + "1,2,0\n", r"no usable rows; expected rows with input and output tokens"),
        (BURST + "1,2,3\n1e12,2,3\n", r"times span over a century"),
        (AZURE + "yesterday,2,3\n", r":2: TIMESTAMP is 'yesterday'; expected a date such as 2023-11-16"),
        (AZURE + "2023-13-01 00:00:00,2,3\n", r":2: TIMESTAMP is '2023-13-01 00:00:00'; expected a date"),
    ],
)
def test_a_faulty_trace_is_told_by_file_and_line(text, told, tmp_path):
    """One line: the file, the line, what stands there and what was expected."""
    path = written(tmp_path, text)

    with pytest.raises(InputError, match=told) as caught:
        read_trace(path)

    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_format_that_does_not_fit_is_told(tmp_path):
    """A file given as BurstGPT that is not names the column that it lacks."""
    with pytest.raises(InputError, match=r"azure.csv:1: column 'Timestamp' is missing; expected Timestamp, Request"):
        read_trace(DATA / "azure.csv", "burstgpt")


def test_a_binary_file_is_no_trace(tmp_path):
    """Bytes that are no text are refused without a traceback."""
    path = tmp_path / "x.csv"
    path.write_bytes(BURST.encode() + b"\xff\xfe,1,2\n")

    with pytest.raises(InputError, match=r"x.csv:2: Timestamp is .*; expected a number"):
        read_trace(path)
