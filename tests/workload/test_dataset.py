"""Prompts of data sets are read as their makers meant, and faults reported by place and field."""

from pathlib import Path

import numpy as np
import pytest

from harness.errors import InputError
from harness.results.request_table import MISSING
from harness.workload import dataset as datasets
from harness.workload.dataset import RowRequirements, read_dataset
from harness.workload.prompts import ChatMessage

DATA = Path(__file__).parent.parent / "data"
TEXTS = RowRequirements(plain_text=True, output_tokens=True)
CHATS = RowRequirements(plain_text=False, output_tokens=True)


def written(tmp_path, text):
    """A data file of this text."""
    path = tmp_path / "data.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_sharegpt_gives_the_first_question_that_was_answered():
    """One prompt a conversation, with about as many tokens asked for as its reply had; others are counted."""
    dataset = read_dataset(DATA / "sharegpt.json", TEXTS)

    assert dataset.format == datasets.SHAREGPT
    assert [entry.messages for entry in dataset.entries] == [
        (ChatMessage("user", "What is a page table?"),),
        (ChatMessage("user", "什么是分页?"),),
    ]
    assert [entry.output_tokens for entry in dataset.entries] == [15, 9]
    assert [str(note) for note in dataset.skipped] == ["1 row of the file left out: no question with an answer."]


def test_sharegpt_may_stand_a_conversation_a_line(tmp_path):
    """The same conversations as JSON lines are the same data set."""
    line = '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello to you"}]}\n'
    dataset = read_dataset(written(tmp_path, line * 3), TEXTS)

    assert (dataset.format, len(dataset.entries)) == (datasets.SHAREGPT, 3)


def test_json_lines_give_prompts_and_exact_answers():
    """On completions a row's prompt is sent, on chat its messages where it has them."""
    texts = read_dataset(DATA / "prompts.jsonl", TEXTS)
    chats = read_dataset(DATA / "prompts.jsonl", CHATS)

    assert [entry.messages[0].content for entry in texts.entries] == ["Name three rivers.", "Translate: good morning."]
    assert [entry.output_tokens for entry in texts.entries] == [12, 5]
    assert chats.entries[0].messages == (ChatMessage("user", "Name three rivers."),)
    assert [message.role for message in chats.entries[1].messages] == ["system", "user"]


def test_answers_need_no_length_where_the_scenario_gives_one(tmp_path):
    """output_tokens may be left out of the file where it is not wanted."""
    path = written(tmp_path, '{"prompt": "Hi"}\n')

    assert read_dataset(path, RowRequirements(plain_text=True, output_tokens=False)).entries[0].output_tokens == MISSING


def test_shuffling_takes_another_part_of_the_file(tmp_path):
    """A limit after shuffling is a random choice of rows, the same for the same generator."""
    path = written(tmp_path, "".join(f'{{"prompt": "{n}", "output_tokens": 1}}\n' for n in range(100)))

    def taken(seed):
        dataset = read_dataset(path, TEXTS, limit=10, shuffle=np.random.default_rng(seed))
        return [entry.messages[0].content for entry in dataset.entries]

    assert taken(1) == taken(1)
    assert taken(1) != taken(2)
    assert len(set(taken(1))) == 10
    assert taken(1) != [str(n) for n in range(10)]


PAIR = '{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("[]", "the array is empty; expected an object with conversations"),
        ("[{]", r"not JSON \(.*\); expected an array of conversations"),
        ("{", r":1: not JSON \(.*\); expected an object with conversations \(ShareGPT\), or a JSON object a line"),
        ('{"question": "x"}', r":1: neither conversations \(ShareGPT\) nor prompt or messages is there"),
        ('[{"conversations": []}]', "no usable prompts; expected an object with conversations"),
        ('[{"conversations": [{"from": "human"}]}]', r"item 1: conversations\[0\]: value is missing; expected a text"),
        ('[{"conversations": ["hi"]}]', r"item 1: conversations\[0\]: not an object; expected a text"),
        (
            '{"prompt": "x"}',
            r":1: output_tokens is missing; expected a whole number of at least 1, or output_tokens in",
        ),
        ('{"prompt": "x", "output_tokens": 0}', ":1: output_tokens is 0; expected a whole number of at least 1"),
        ('{"prompt": "x", "output_tokens": true}', ":1: output_tokens is True; expected a whole number"),
        ('{"prompt": 3, "output_tokens": 1}', ":1: prompt is 3; expected a text"),
        ('{"prompt": "", "output_tokens": 1}', ":1: prompt is ''; expected a text"),
        ('\n{"messages": [], "output_tokens": 1}', r":2: prompt is missing; .*messages need endpoint chat"),
    ],
)
def test_a_faulty_data_set_is_told_by_place_and_field(text, told, tmp_path):
    """One line: the file, the line or item, the field and what was expected."""
    path = written(tmp_path, text)

    with pytest.raises(InputError, match=told) as caught:
        read_dataset(path, TEXTS)

    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ("[]", ":1: messages is empty; expected a list of {role, content}"),
        ('[{"role": "user"}]', ":1: messages: .*content.*; expected a list of {role, content}"),
        ('"hi"', ":1: messages: .*; expected a list of {role, content}"),
    ],
)
def test_faulty_messages_are_told(messages, told, tmp_path):
    """Messages of a chat are checked when the file is read, not when they are sent."""
    path = written(tmp_path, f'{{"messages": {messages}, "output_tokens": 1}}')

    with pytest.raises(InputError, match=told):
        read_dataset(path, CHATS)


def test_odd_rows_are_skipped_and_counted(tmp_path):
    """A conversation without a text, or one that is none, costs itself; the first such row is told."""
    nothing = '{"from": "human", "value": null}'
    odd = ['{"conversations": []}', f'{{"conversations": [{nothing}]}}', '{"conversations": [7]}', "3"]
    whole = f'{{"conversations": [{PAIR}]}}'
    dataset = read_dataset(written(tmp_path, f"[{','.join([odd[0], whole, *odd[1:], whole])}]"), TEXTS)

    first = "data.json: item 3: conversations[0]: value is None; expected a text"

    assert len(dataset.entries) == 2
    assert [str(note) for note in dataset.skipped] == [
        "1 row of the file left out: no question with an answer.",
        f"3 rows of the file left out: not readable, first {first}.",
    ]


def test_a_fault_behind_the_first_pair_does_no_harm(tmp_path):
    """Only the first question and its answer are taken."""
    dataset = read_dataset(written(tmp_path, f'[{{"conversations": [{PAIR}, {{"from": 3}}]}}]'), TEXTS)

    assert (len(dataset.entries), dataset.skipped) == (1, ())


def test_role_and_content_are_from_and_value(tmp_path):
    """Conversations written for a chat's own fields are the same; parts of text are one text."""
    told = '{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}'
    both = [read_dataset(written(tmp_path, f'[{{"conversations": [{pair}]}}]'), TEXTS).entries for pair in (PAIR, told)]

    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("row", "wanted", "tokens"),
    [
        ('{"prompt": "a", "output_tokens": 5.0}', True, 5),
        ('{"prompt": "a", "output_tokens": null}', False, MISSING),
        ('{"prompt": "a", "output_tokens": "many"}', False, MISSING),
        ('\ufeff{"prompt": "a", "output_tokens": 5}', True, 5),
    ],
)
def test_a_length_is_asked_of_the_file_only_where_it_is_needed(row, wanted, tokens, tmp_path):
    """5.0 is 5; where the scenario sets the length, whatever the file says of it is not read."""
    (entry,) = read_dataset(written(tmp_path, row), RowRequirements(plain_text=True, output_tokens=wanted)).entries

    assert entry.output_tokens == tokens


def test_parts_of_a_message_are_one_text(tmp_path):
    """A message of text parts is sent as its text; one with a picture cannot be, and its row is left out."""
    parts = ['{"type": "text", "text": "hi "}, {"type": "text", "text": "there"}', '{"type": "image_url"}']
    lines = [f'{{"messages": [{{"role": "user", "content": [{part}]}}], "output_tokens": 4}}' for part in parts]
    dataset = read_dataset(written(tmp_path, "\n".join(lines)), CHATS)

    assert [entry.messages for entry in dataset.entries] == [(ChatMessage("user", "hi there"),)]
    assert [note.parameters["count"] for note in dataset.skipped] == [1]
