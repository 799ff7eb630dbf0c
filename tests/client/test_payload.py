"""A request's body says what was meant, in JSON that any server reads."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.client import payload
from harness.client.payload import Options
from harness.workload.prompts import ChatMessage, ChatPrompt, TextPrompt, TokenPrompt

IDS = TokenPrompt(np.array([256, 3999, 0, 17], dtype=np.int32))


def options(**changes):
    """Plain options with some changes."""
    plain = {"model": "m", "endpoint": "completions", "stream": True, "token_counts": "usage", "extra_body": {}}
    return Options(**{**plain, **changes})


def told(prompt=IDS, output_tokens=5, **changes):
    """The body as a server reads it."""
    return json.loads(payload.body(prompt, output_tokens, options(**changes)))


def test_a_completion_of_token_ids():
    """Ids go as they are; the answer has exactly its length; the usage is counted on every event."""
    assert told() == {
        "model": "m",
        "prompt": [256, 3999, 0, 17],
        "max_tokens": 5,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def test_a_chat():
    """Messages go with their roles."""
    body = told(ChatPrompt((ChatMessage("system", 'Be "short".'), ChatMessage("user", "你好"))), endpoint="chat")

    assert body["messages"] == [{"role": "system", "content": 'Be "short".'}, {"role": "user", "content": "你好"}]
    assert "prompt" not in body


def test_a_text():
    """A data set's prompt on completions is a string."""
    assert told(TextPrompt("Hi\n\u2028"))["prompt"] == "Hi\n\u2028"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"token_counts": "token_ids"}, {"return_token_ids": True, "stream_options": {"include_usage": True}}),
        ({"token_counts": "assumed"}, {"stream_options": {"include_usage": True}}),
        ({"stream": False}, {}),
        ({"stream": False, "token_counts": "token_ids"}, {"return_token_ids": True}),
    ],
)
def test_counting_asks_for_no_more_than_it_needs(changes, expected):
    """Options of a stream are sent only with a stream, which servers insist on."""
    body = told(**changes)

    assert {key: body[key] for key in ("return_token_ids", "stream_options") if key in body} == expected
    assert body["stream"] is changes.get("stream", True)


def test_extra_body_adds_replaces_and_removes():
    """A scenario's own keys win; None takes a key out."""
    body = told(extra_body={"temperature": 0.7, "ignore_eos": None, "min_tokens": 3, "nested": {"a": None}})

    assert body["temperature"] == 0.7
    assert "ignore_eos" not in body
    assert (body["min_tokens"], body["nested"]) == (3, {"a": None})


def test_extra_body_reaches_into_mappings():
    """A key inside one of ours is removed alone, and what stands beside it stays."""
    body = told(extra_body={"stream_options": {"continuous_usage_stats": None}})

    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("unknown field 'ignore_eos'", "{ignore_eos: null}"),
        ("stream_options.continuous_usage_stats: extra", "{stream_options: {continuous_usage_stats: null}}"),
        ("the prompt is too long", ""),
    ],
)
def test_a_refusal_that_names_a_key_of_ours_says_how_to_leave_it_out(words, expected):
    """The advice is what a scenario would hold."""
    assert expected in payload.advice(words)
    assert bool(payload.advice(words)) == bool(expected)


@given(st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 9999), max_size=300))
def test_ids_are_read_back_as_they_were(ids):
    """Whatever the ids, the JSON says them: the fast way for small ones, the plain way for others."""
    assert told(TokenPrompt(np.array(ids, dtype=np.int32)))["prompt"] == ids


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=300))
def test_small_ids_cost_five_bytes_each(ids):
    """Blanks make every number as wide: no more than the comma beyond four digits."""
    empty = len(payload.body(TokenPrompt(np.array([], dtype=np.int32)), 5, options()))

    assert len(payload.body(TokenPrompt(np.array(ids, dtype=np.int32)), 5, options())) == empty + 5 * len(ids) - 1


def test_paths():
    """The two endpoints of an OpenAI-compatible server."""
    assert payload.path("completions") == "/v1/completions"
    assert payload.path("chat") == "/v1/chat/completions"
