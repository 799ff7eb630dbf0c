"""The simulated engine answers HTTP as vLLM's server does."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, web

from harness.errors import EngineError
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.request_parsing import answer_tokens
from harness.simulator.server import application, serve
from harness.simulator.service import SIMULATED_HEADER, service_of

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


@asynccontextmanager
async def running(**flags):
    """A service and a session whose base is its URL."""
    service = service_of(settings_from_flags({"model": MODEL, **flags}))
    runner = web.AppRunner(application(service), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
        yield service, session
    await runner.cleanup()


def ask(path, body, **flags):
    """Status, headers and text of one answer."""

    async def whole():
        async with running(**flags) as (_, session), session.post(path, json=body) as answer:
            return answer.status, answer.headers, await answer.text()

    return asyncio.run(whole())


def events(text):
    """The JSON events of a stream, which ends as it should."""
    parts = text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def counted(usage):
    """Prompt, output and all tokens of a usage."""
    return usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]


def metric(text, name):
    """The value of a metric with no labels beyond model and engine."""
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))


def test_a_completion_streams_one_event_a_token():
    """Ids, text, reason and usage of every event are vLLM's; the header says that it is simulated."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"model": MODEL, "prompt": [5, 6, 7], "max_tokens": 3, "stream": True, "stream_options": options,
            "return_token_ids": True}  # fmt: skip
    status, headers, text = ask("/v1/completions", body)
    *tokens, usage = events(text)
    drawn = answer_tokens([5, 6, 7], 151936)(3, 6)

    assert status == 200
    assert headers[SIMULATED_HEADER] == "1"
    assert headers["Content-Type"].startswith("text/event-stream")
    assert [event["choices"][0]["token_ids"] for event in tokens] == [[token] for token in drawn]
    assert [event["choices"][0]["finish_reason"] for event in tokens] == [None, None, "length"]
    assert [event["usage"]["completion_tokens"] for event in tokens] == [1, 2, 3]
    assert tokens[0]["choices"][0]["prompt_token_ids"] == [5, 6, 7]
    assert tokens[0]["object"] == "text_completion"
    assert usage["choices"] == []
    assert "simulator" in usage["system_fingerprint"]
    assert usage["usage"] == {"prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 3}


def test_a_chat_streams_a_role_first():
    """Then one event a token; without include_usage there is no usage event."""
    body = {"messages": [{"role": "user", "content": "how are you"}], "max_tokens": 2, "stream": True}
    _, _, text = ask("/v1/chat/completions", body)
    role, first, last = events(text)

    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert set(first["choices"][0]["delta"]) == {"content"}
    assert last["choices"][0]["finish_reason"] == "length"
    assert {event["object"] for event in (role, first, last)} == {"chat.completion.chunk"}


@pytest.mark.parametrize("stream", [True, False])
def test_several_prompts_and_copies_have_an_index_each(stream):
    """Two prompts three times are six choices, and the usage counts each prompt once."""
    options = {"stream_options": {"include_usage": True}} if stream else {}
    body = {"prompt": [[1, 2], [3, 4, 5]], "n": 3, "max_tokens": 2, "stream": stream, **options}
    _, _, text = ask("/v1/completions", body)
    answers = events(text) if stream else [json.loads(text)]
    seen = [choice["index"] for answer in answers for choice in answer["choices"]]

    assert sorted(set(seen)) == [0, 1, 2, 3, 4, 5]
    assert counted(answers[-1]["usage"]) == (5, 12, 17)


def test_an_answer_not_streamed_is_one_object():
    """Text, reason and usage together; a chat's text is its message's content."""
    _, _, plain = ask("/v1/completions", {"prompt": "one two three", "max_tokens": 2})
    _, _, chat = ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2})

    assert json.loads(plain)["choices"][0]["finish_reason"] == "length"
    assert counted(json.loads(plain)["usage"]) == (3, 2, 5)
    assert len(json.loads(chat)["choices"][0]["message"]["content"].split()) == 2
    assert json.loads(chat)["usage"]["prompt_tokens"] == 5 + 3 + 1


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/completions", {"model": "gpt", "prompt": "a"}, 404, "The model `gpt` does not exist. Valid aliases: "),
        ("/v1/completions", {"prompt": [1] * 65}, 400, "maximum context length is 64 tokens"),
        ("/v1/completions", {"prompt": [1] * 64}, 400, "max_tokens must be at least 1, got 0."),
        ("/v1/completions", {"prompt": "a", "max_tokens": 65}, 400, "cannot be greater than max_model_len=64"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "got 0. (parameter=max_tokens, value=0)"),
        ("/v1/completions", {"prompt": "a", "max_tokens": "x"}, 400, "valid integer"),
        ("/v1/completions", {"prompt": ""}, 400, "non-empty. (parameter=prompt)"),
        ("/v1/completions", {"prompt": []}, 400, "You must pass at least one prompt"),
        ("/v1/completions", {"prompt": 7}, 400, "valid string"),
        ("/v1/completions", {"prompt": "a", "min_tokens": 20}, 400, "min_tokens must be less than or equal to"),
        ("/v1/completions", {"prompt": [1, "a"]}, 400, "valid integer"),
        ("/v1/completions", {"prompt": [151936]}, 400, "out of vocabulary"),
        ("/v1/completions", {}, 400, "prompt"),
        ("/v1/completions", [1], 400, "valid dictionary"),
        ("/v1/chat/completions", {"messages": "hi"}, 400, "messages"),
    ],
)
def test_a_bad_request_is_refused_in_vllms_words(path, body, status, said):
    """The error is an object with message, type, param and code."""
    answered, headers, text = ask(path, body, max_model_len=64)
    error = json.loads(text)["error"]

    assert (answered, error["code"]) == (status, status)
    assert said in error["message"]
    assert headers[SIMULATED_HEADER] == "1"


def test_json_that_is_none_is_refused():
    """The parser's message comes back with status 400."""

    async def whole():
        async with running() as (_, session), session.post("/v1/completions", data=b"{no") as answer:
            return answer.status, (await answer.json())["error"]["message"]

    status, message = asyncio.run(whole())

    assert status == 400
    assert "JSON decode error" in message


def test_metrics_count_every_token():
    """Prompt and output tokens, requests, cache hits and preemptions as counted by the client."""

    async def whole():
        async with running() as (_, session):
            for _ in range(2):
                async with session.post(
                    "/v1/completions", json={"prompt": list(range(300)), "max_tokens": 5}
                ) as answer:
                    await answer.read()
            async with session.get("/metrics") as answer:
                return await answer.text()

    text = asyncio.run(whole())

    assert metric(text, "vllm:prompt_tokens_total") == 600
    assert metric(text, "vllm:generation_tokens_total") == 10
    assert metric(text, "vllm:prefix_cache_queries_total") == 600
    assert metric(text, "vllm:prefix_cache_hits_total") == 256
    assert metric(text, "vllm:num_preemptions_total") == 0
    assert metric(text, "vllm:num_requests_running") == 0
    assert metric(text, "vllm:time_to_first_token_seconds_count") == 2
    assert metric(text, "vllm:inter_token_latency_seconds_count") == 8
    assert metric(text, "npu_harness:step_late_seconds_count") == 10
    assert 'finished_reason="length"} 2.0' in text
    assert 'block_size="128"' in text


def test_cached_tokens_are_told_where_asked():
    """With --enable-prompt-tokens-details usage holds what the prefix cache held."""

    async def whole():
        async with running(enable_prompt_tokens_details=True) as (_, session):
            for _ in range(2):
                async with session.post(
                    "/v1/completions", json={"prompt": list(range(300)), "max_tokens": 1}
                ) as answer:
                    usage = (await answer.json())["usage"]
            return usage

    assert asyncio.run(whole())["prompt_tokens_details"] == {"cached_tokens": 256}


def test_a_client_that_leaves_frees_its_blocks():
    """Its request is aborted and counted so; the engine goes on to serve."""

    async def whole():
        async with running() as (service, session):
            body = {"prompt": list(range(500)), "max_tokens": 20000, "stream": True}
            async with session.post("/v1/completions", json=body) as answer:
                await answer.content.readline()
                held = service.engine.scheduler.pool.usage
            await service.engine.idle.wait()
            async with session.post("/v1/completions", json={"prompt": [1], "max_tokens": 2}) as answer:
                after = await answer.json()
            return held, service, after

    held, service, after = asyncio.run(whole())

    assert held > 0
    assert service.engine.scheduler.pool.usage == 0
    assert service.engine.metrics.finished["abort"] == 1
    assert after["usage"]["completion_tokens"] == 2


def test_tokenize_counts_as_the_engine_does():
    """Texts, chats with their overhead, and the strings of the tokens; detokenize turns ids back."""
    _, _, text = ask("/tokenize", {"model": MODEL, "prompt": "hello big world", "return_token_strs": True})
    _, _, chat = ask("/tokenize", {"messages": [{"role": "user", "content": "a b"}]})
    _, _, back = ask("/detokenize", {"tokens": [1, 2]})

    assert json.loads(text)["count"] == 3
    assert json.loads(text)["token_strs"] == ["hello", "Ġbig", "Ġworld"]
    assert json.loads(chat)["count"] == 2 + 5 + 3
    assert json.loads(back) == {"prompt": "t1 t2"}


def test_small_routes_answer():
    """Health, version and the model card, which names the simulator as owner."""

    async def whole():
        async with running(served_model_name="mine") as (_, session):
            answers = []
            for path in ("/health", "/version", "/v1/models", "/nowhere"):
                async with session.get(path) as answer:
                    answers.append((answer.status, await answer.text(), answer.headers[SIMULATED_HEADER]))
            return answers

    health, version, models, nowhere = asyncio.run(whole())
    card = json.loads(models[1])["data"][0]

    assert health == (200, "", "1")
    assert "simulator" in json.loads(version[1])["version"]
    assert (card["id"], card["root"], card["owned_by"]) == ("mine", MODEL, "npu-harness simulator")
    assert nowhere == (404, '{"detail":"Not Found"}', "1")


def test_a_model_of_several_names_answers_to_each():
    """All are listed and taken; answers bear the first, as vLLM's do, and any other name is refused."""

    async def whole():
        async with running(served_model_name=["first", "second"]) as (_, session):
            async with session.get("/v1/models") as answer:
                listed = [card["id"] for card in (await answer.json())["data"]]
            answers = []
            for name in ("first", "second", "third"):
                body = {"model": name, "prompt": "a b", "max_tokens": 1}
                async with session.post("/v1/completions", json=body) as answer:
                    answers.append((answer.status, (await answer.json()).get("model")))
            return listed, answers

    listed, answers = asyncio.run(whole())

    assert listed == ["first", "second"]
    assert answers == [(200, "first"), (200, "first"), (404, None)]


def test_serving_ends_when_cancelled_and_frees_its_port():
    """`serve` gives its URL, logs a start in vLLM's words, and the port can be taken again."""

    async def whole():
        lines = []
        settings = settings_from_flags({"model": MODEL})
        url = "http://127.0.0.1:0"
        for _ in range(2):
            ready = asyncio.get_running_loop().create_future()
            port = int(url.rsplit(":", 1)[1])
            task = asyncio.create_task(
                serve(settings, host="127.0.0.1", port=port, on_ready=ready.set_result, log=lines.append)
            )
            url = await ready
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return url, lines

    url, lines = asyncio.run(whole())

    assert url.startswith("http://127.0.0.1:")
    assert any(line.startswith("NPU KV cache size: ") for line in lines)
    assert "simulator" in lines[0]


def test_a_port_that_is_taken_is_an_engine_error():
    """One line with the port; nothing is left running."""

    async def whole():
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            await serve(settings_from_flags({}), host="127.0.0.1", port=port, on_ready=print)
        finally:
            server.close()
            await server.wait_closed()

    with pytest.raises(EngineError, match="cannot listen on 127"):
        asyncio.run(whole())


TOLD = {"time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "mean_itl_ms", "tokens_per_second"}


def test_an_answer_tells_its_own_times_where_asked():
    """With --enable-per-request-metrics an answer has vLLM's fields, with the usage; of several it has none."""

    async def whole(**body):
        async with running(enable_per_request_metrics=True) as (_, session):
            asked = {"prompt": [1, 2, 3], "max_tokens": 3, **body}
            async with session.post("/v1/completions", json=asked) as answer:
                return await answer.text()

    events = asyncio.run(whole(stream=True, stream_options={"include_usage": True})).split("\n\n")
    with_usage = json.loads(events[-3].removeprefix("data: "))

    assert set(json.loads(asyncio.run(whole()))["metrics"]) == TOLD
    assert set(with_usage["metrics"]) == TOLD
    assert with_usage["choices"] == []
    assert all(value >= 0 for value in with_usage["metrics"].values())
    assert sum("metrics" in event for event in events) == 1
    assert "metrics" not in json.loads(asyncio.run(whole(n=2)))
    assert "mean_itl_ms" not in json.loads(asyncio.run(whole(max_tokens=1)))["metrics"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_pair_hands_a_prompt_over_by_vllms_parameters(stream):
    """One answers a token and where the KV cache is, the other goes on from it, and then the first lets go."""
    decode = {"kv_transfer_config": {"kv_role": "kv_consumer"}}
    body = {"prompt": list(range(300)), "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}

    async def handed_over():
        async with (
            running(kv_transfer_config={"kv_role": "kv_producer"}) as (first, prefill),
            running(**decode) as (
                second,
                session,
            ),
        ):
            first.port.address = "127.0.0.1", prefill._base_url.port
            async with prefill.post("/v1/completions", json=body) as answer:
                params = (await answer.json())["kv_transfer_params"]
            held = first.engine.state().kv_usage
            asked = {**body, "max_tokens": 5, "kv_transfer_params": params, "stream": stream}
            async with session.post("/v1/completions", json=asked) as answer:
                text = await answer.text()
            for _ in range(500):
                if first.engine.state().kv_usage:
                    await asyncio.sleep(0.01)
            return held, first.engine.state().kv_usage, text, second.metrics()

    held, later, text, metrics = asyncio.run(asyncio.wait_for(handed_over(), 20))

    assert held > later == 0
    assert len(events(text)) == 5 if stream else json.loads(text)["usage"]["completion_tokens"] == 5
    assert metric(metrics, "vllm:nixl_xfer_time_seconds_count") == 1
    assert metric(metrics, "vllm:kv_cache_usage_perc") == 0
