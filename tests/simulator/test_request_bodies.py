"""Every API of the simulated engine: what it answers, what it refuses, and that the harness reads it whole."""

import json

import pytest

from harness.client.payload import PATHS
from harness.results.request_table import MISSING
from harness.scenario.request_kinds import Structured, Tools
from harness.simulator.request_bodies import ENDPOINT_OF
from harness.workload.classes import STRUCTURED, TOOLS
from harness.workload.forms import FormCheck, fields_of_structured, fields_of_tools
from tests.simulator.test_virtual_transport import FLAGS, STREAM, answered, decoded

USER = [{"role": "user", "content": "hello there"}]
BODIES = {
    "/v1/completions": {"prompt": [1, 2, 3], "max_tokens": 5},
    "/v1/chat/completions": {"messages": USER, "max_tokens": 5},
    "/v1/responses": {"input": USER, "max_output_tokens": 5},
    "/v1/embeddings": {"input": [[1, 2, 3], [4, 5]]},
    "/v1/rerank": {"query": "a b", "documents": ["c d", "e", "f"]},
    "/v1/score": {"text_1": "a b", "text_2": ["c d", "e"]},
}
GENERATING = tuple(BODIES)[:3]
THINKING = {"reasoning_parser": "qwen3"}


def test_every_path_of_the_client_is_there():
    """What a scenario may send, the simulator answers; rerank and score also lie where vLLM has them first."""
    assert {path: ENDPOINT_OF[path] for path in PATHS.values()} == {path: name for name, path in PATHS.items()}
    assert set(ENDPOINT_OF) - set(PATHS.values()) == {"/rerank", "/score"}


@pytest.mark.parametrize("path", BODIES)
def test_every_api_answers_whole(path):
    """Tokens where it has them, else documents; the tokens of the prompt always."""
    answer = decoded(answered(BODIES[path], path)[0])

    assert (answer.http_status, answer.error) == (200, "")
    assert answer.input_tokens > 0
    if path in GENERATING:
        assert (answer.output_tokens, answer.documents) == (5, MISSING)
    else:
        assert (answer.output_tokens, answer.documents) == (0, {"/v1/rerank": 3}.get(path, 2))


@pytest.mark.parametrize("path", GENERATING)
def test_streams_have_an_event_a_token(path):
    """Each with its stamp; without a parser nothing is reasoning."""
    answer = decoded(answered({**BODIES[path], **STREAM}, path)[0])

    assert (answer.error, answer.output_tokens, len(answer.at_ns)) == ("", 5, 5)
    assert (answer.answer_ns, answer.reasoning_tokens) == (answer.at_ns[0], 0)


@pytest.mark.parametrize("path", GENERATING[1:])
@pytest.mark.parametrize("stream", [True, False])
def test_a_model_that_reasons_does_so_first(path, stream):
    """Half of its tokens, told apart by the server and by the client alike; a request may turn it off."""
    body = {**BODIES[path], **(STREAM if stream else {})}
    answer = decoded(answered(body, path, **THINKING)[0])
    plain = decoded(answered({**body, "chat_template_kwargs": {"enable_thinking": False}}, path, **THINKING)[0])

    assert (answer.error, answer.output_tokens, answer.reasoning_tokens) == ("", 5, 2)
    assert not stream or answer.answer_ns == answer.at_ns[2]
    assert plain.reasoning_tokens == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", GENERATING[1:])
@pytest.mark.parametrize("choice", ["structured", "tools"])
def test_an_answer_keeps_the_form_that_was_asked_for(path, stream, choice):
    """It ends where its form does; where the tokens do not suffice, it is cut and does not keep it."""
    structured, tools = Structured(kind="json_schema", name="order"), Tools()
    fields = fields_of_structured if choice == "structured" else fields_of_tools
    form = STRUCTURED if choice == "structured" else TOOLS
    more = fields(structured if choice == "structured" else tools, ENDPOINT_OF[path])
    most = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    answers = [
        decoded(answered({**BODIES[path], most: tokens, **more, **(STREAM if stream else {})}, path)[0])
        for tokens in (200, 4)
    ]
    check = FormCheck(structured, tools)

    assert [answer.error for answer in answers] == ["", ""]
    assert [check.holds(form, answer.text, answer.calls) for answer in answers] == [1, 0]
    assert answers[0].output_tokens < 200
    assert answers[1].output_tokens == 4


@pytest.mark.parametrize("kind", ["choice", "regex", "grammar"])
def test_other_forms_are_kept_as_well(kind):
    """On completions, too."""
    structured = Structured(kind=kind)
    body = {"prompt": [1, 2], "max_tokens": 40, **fields_of_structured(structured, "completions")}

    assert FormCheck(structured).holds(STRUCTURED, decoded(answered(body)[0]).text, ()) == 1


IMAGES = [{"type": "image_url", "image_url": {"url": f"https://a/{name}.png"}} for name in "ab"]


def test_images_are_tokens_of_the_prompt():
    """As many as their size has; the server tells them where it tells details."""
    content = [*IMAGES[:1], {"type": "text", "text": "what is this"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 2, **STREAM}
    flags = {"max_model_len": 2048, "enable_prompt_tokens_details": True}
    answer = decoded(answered(body, "/v1/chat/completions", **flags)[0])

    assert answer.input_tokens == 23 * 18 + 3 + 5 + 3
    assert answer.image_tokens == 23 * 18


def test_adapters_are_models_of_their_own():
    """Each listed with the model as its parent; a name that is not served is refused with those that are."""
    flags = {"enable_lora": True, "lora_modules": ["sql=/a", '{"name": "poem", "path": "/b"}']}
    request, service = answered({**BODIES["/v1/completions"], "model": "poem"}, **flags)
    refused = decoded(answered({**BODIES["/v1/completions"], "model": "sq"}, **flags)[0])

    assert json.loads(request.pieces[-1].partition(b"\r\n\r\n")[2])["model"] == "poem"
    cards = [(card["id"], card["parent"]) for card in service.models()]
    assert cards == [(FLAGS["model"], None), ("sql", FLAGS["model"]), ("poem", FLAGS["model"])]
    assert (refused.error, "Valid aliases" in refused.message) == ("http_404", True)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/embeddings", {}, "Either prompt or prompt_embeds"),
        ("/v1/embeddings", {"input": [[1] * 300]}, "maximum context length is 256"),
        ("/v1/rerank", {"query": "a"}, "Field required"),
        ("/v1/score", {"text_1": ["a", "b", "c"], "text_2": ["d", "e"]}, "Input lengths"),
        ("/v1/responses", {}, "Field required"),
        ("/v1/completions", {"prompt": [1], "priority": 3}, "Priority scheduling is not enabled"),
    ],
)
def test_what_vllm_would_refuse_is_refused(path, body, words):
    """With status 400 and its words."""
    answer = decoded(answered(body, path)[0])

    assert answer.error == "http_400"
    assert words in answer.message
