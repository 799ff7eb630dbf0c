"""Answers of every API are counted alike: whole or streamed, with errors amid them, cut, or without usage."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.client import answer_decoding
from harness.results.request_table import ASSUMED, FROM_EVENTS, MISSING
from tests.fakes import answered, chunked, event

HEAD, _, _ = chunked().partition(b"0\r\n")
BEGUN = {"id": "resp_1", "object": "response", "status": "in_progress", "output": [], "usage": None}


def happened(kind, **more):
    """An event of the Responses API as vLLM sends it."""
    return f"event: {kind}\ndata: {json.dumps({**more, 'sequence_number': 0, 'type': kind})}\n\n".encode()


def ending(status="completed", usage=(7, 5, 2), output=()):
    """The last event: the whole response with its usage."""
    counts = None
    if usage is not None:
        read, written, reasoning = usage
        counts = {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": read + written,
        }
    response = {**BEGUN, "status": status, "output": list(output), "usage": counts}
    return happened(f"response.{status}", response=response)


OPENING = [
    happened("response.created", response=BEGUN),
    happened("response.in_progress", response=BEGUN),
    happened("response.output_item.added", output_index=0, item={"type": "reasoning", "id": "rs_1"}),
]
TOKENS = [
    *(happened("response.reasoning_text.delta", delta=text, item_id="rs_1") for text in ("hm", " so")),
    *(happened("response.output_text.delta", delta=text, item_id="msg_1") for text in ("an", "sw", "er")),
]


def streamed(*events):
    """A stream whose events come one read each, at 1, 2 and so on."""
    pieces = [HEAD, *(b"%x\r\n%b\r\n" % (len(each), each) for each in events), b"0\r\n\r\n"]
    return answer_decoding.decode(pieces, list(range(len(pieces))))


def test_an_answer_of_the_responses_api():
    """Tokens are stamped by their deltas; reasoning and answer apart; the counts are those of the last event."""
    answer = streamed(*OPENING, *TOKENS, ending())

    assert (answer.error, answer.text, answer.streamed) == ("", "answer", True)
    assert list(answer.at_ns) == [4, 5, 6, 7, 8]
    assert (answer.answer_ns, answer.reasoning_tokens) == (6, 2)
    assert (answer.input_tokens, answer.cached_tokens, answer.output_tokens) == (7, 3, 5)
    assert answer.counted_by == ASSUMED


RAW = chunked(*OPENING, *TOKENS, ending())


@settings(max_examples=100)
@given(st.lists(st.integers(1, len(RAW) - 1), max_size=30))
def test_it_is_the_same_wherever_its_bytes_are_cut(cuts):
    """Counts and text do not depend on the reads."""
    places = sorted({0, len(RAW), *cuts})
    pieces = [RAW[a:b] for a, b in itertools.pairwise(places)]
    answer = answer_decoding.decode(pieces, list(range(len(pieces))))

    assert (answer.error, answer.text, answer.output_tokens, answer.reasoning_tokens) == ("", "answer", 5, 2)
    assert list(answer.at_ns) == sorted(answer.at_ns)


def test_an_answer_at_its_length_is_whole_too():
    """`response.incomplete` ends an answer that has all the tokens it may have: what a load asks for."""
    answer = streamed(*OPENING, *TOKENS, ending("incomplete"))

    assert (answer.error, answer.output_tokens) == ("", 5)


@pytest.mark.parametrize(
    ("events", "error", "message"),
    [
        ([happened("response.failed", response={**BEGUN, "error": {"message": "boom"}})], "stream_error", "boom"),
        ([happened("error", message="boom", code="server_error")], "stream_error", "boom"),
        ([b'data: {"error": {"message": "boom", "code": 500}}\n\n'], "stream_error", "boom"),
        ([], "truncated", "the stream ended without [DONE] or a finish_reason"),
        ([b"event: response.output_text.delta\ndata: {\n\n", ending()], "bad_event", "Expecting property name"),
    ],
)  # fmt: skip
def test_what_goes_wrong_amid_a_stream_is_told(events, error, message):
    """The server's words where it has some; the tokens before stay."""
    answer = streamed(*OPENING, *TOKENS, *events)

    assert (answer.error, answer.output_tokens) == (error, 5)
    assert message in answer.message


def test_without_usage_each_delta_is_a_token():
    """A server that counts nothing leaves the events."""
    answer = streamed(*OPENING, *TOKENS, ending(usage=None))

    assert (answer.error, answer.output_tokens, answer.counted_by) == ("", 5, FROM_EVENTS)
    assert (answer.input_tokens, answer.reasoning_tokens) == (MISSING, 2)


CALL = {"type": "function_call", "name": "get_weather", "arguments": '{"city": "Beijing"}', "call_id": "c"}


def test_a_call_of_a_function_is_read():
    """Its arguments come in parts, which are tokens; its name stands in the whole response."""
    parts = [happened("response.function_call_arguments.delta", delta=text) for text in ('{"city"', ': "Beijing"}')]
    answer = streamed(*OPENING, *parts, ending(usage=(7, 2, 0), output=[CALL]))

    assert (answer.error, answer.output_tokens, answer.text) == ("", 2, "")
    assert answer.calls == (("get_weather", '{"city": "Beijing"}'),)


def whole(body):
    """An answer in one piece."""
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return answer_decoding.decode([head.encode() + data], [9])


def test_a_whole_response():
    """All tokens come with the body; text, reasoning and calls are told apart."""
    output = [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "yes"}]},
        CALL,
    ]
    usage = {"input_tokens": 7, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2}}
    answer = whole({"object": "response", "status": "completed", "output": output, "usage": usage})

    assert (answer.error, answer.text, answer.output_tokens, answer.reasoning_tokens) == ("", "yes", 5, 2)
    assert answer.calls == (("get_weather", '{"city": "Beijing"}'),)
    failed = whole({"object": "response", "status": "failed", "output": [], "error": {"message": "boom"}})
    assert (failed.error, failed.message) == ("error_body", "boom")


EMBEDDINGS = {"object": "list", "data": [{"index": n, "embedding": [0.1, -2e-05]} for n in range(3)]}
RERANKED = {"id": "score-1", "results": [{"index": 1, "relevance_score": 0.9, "document": {"text": "a"}}] * 2}
SCORES = {"object": "list", "data": [{"index": 0, "object": "score", "score": 0.25}]}


@pytest.mark.parametrize(("body", "documents"), [(EMBEDDINGS, 3), (RERANKED, 2), (SCORES, 1)])
def test_an_answer_without_tokens_counts_documents(body, documents):
    """Vectors and scores have no tokens; those of the prompt are the server's, where it tells them."""
    answer = whole({**body, "usage": {"prompt_tokens": 77, "total_tokens": 77}})

    assert (answer.error, answer.documents, answer.input_tokens) == ("", documents, 77)
    assert (answer.output_tokens, list(answer.at_ns)) == (0, [])
    assert whole(body).input_tokens == MISSING


def test_an_answer_without_tokens_may_fail():
    """An error in place of the vectors is told, and a body that was cut is not taken for a short one."""
    refused = whole({"object": "list", "error": {"message": "no such model"}})
    body = json.dumps(EMBEDDINGS).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    cut = answer_decoding.decode([head + body[:-9]], [9])

    assert (refused.error, refused.message) == ("error_body", "no such model")
    assert (cut.error, cut.documents) == ("truncated", MISSING)


def test_reasoning_of_a_chat_is_told_apart():
    """The first token of the answer is not that of the reasoning; the server's count of it stands above ours."""
    thinks = [json.dumps({"choices": [{"index": 0, "delta": {"reasoning": text}}]}) for text in ("hm", " so")]
    says = [json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in ("yes", ".")]
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 3}}
    last = json.dumps({"choices": [], "usage": usage})
    answer = streamed(*(f"data: {data}\n\n".encode() for data in (*thinks, *says, last, "[DONE]")))

    assert (answer.error, answer.text, answer.reasoning_tokens) == ("", "yes.", 3)
    assert (answer.at_ns[0], answer.answer_ns) == (1, 3)
    plain = answer_decoding.decode([answered(event(" a"), event(" b"))], [3])
    assert (plain.answer_ns, plain.reasoning_tokens) == (3, 0)


def test_tokens_of_images_are_the_servers():
    """VLLM tells them with --enable-prompt-tokens-details."""
    details = {"cached_tokens": 1, "multimodal_tokens": {"image": 391, "audio": 2}}
    usage = {"prompt_tokens": 400, "completion_tokens": 1, "prompt_tokens_details": details}
    answer = whole({"choices": [{"index": 0, "text": "a", "finish_reason": "length"}], "usage": usage})

    assert (answer.image_tokens, answer.input_tokens) == (391, 400)
