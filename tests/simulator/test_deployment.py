"""Several simulated servers as one: ranks that step together or apart, and pairs that hand KV caches over."""

import asyncio
from array import array
from dataclasses import replace

import pytest

from harness.clock import LoopClock
from harness.simulator.deployment import Deployment, Member
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.kv_transfer import KEPT_S, transfer_rate
from harness.simulator.memory import token_bytes
from harness.simulator.request_parsing import ParsedRequest
from harness.simulator.service import service_of
from harness.simulator.step_cost import StepCost
from harness.simulator.virtual_loop import VirtualSleeper
from tests.virtual_loop import run_virtually

DENSE = {"model": "Qwen/Qwen2.5-7B-Instruct", "max_model_len": 4096, "enable_prefix_caching": False}
EXPERTS = {**DENSE, "model": "Qwen/Qwen3-30B-A3B", "chip": "A3", "enable_expert_parallel": True}
PRODUCER, CONSUMER = ({"kv_transfer_config": {"kv_role": role}} for role in ("kv_producer", "kv_consumer"))


class Client:
    """Sends requests to a server or a deployment in virtual time, and notes when tokens came (ns)."""

    def __init__(self, service, clock):
        self.service, self.clock = service, clock
        self.times = []
        self.answers = []

    def send(self, prompt, tokens, number=1, model=None):
        """Send one; a future of the times of its events."""
        ids = array("q", [number * 10_000 + place for place in range(prompt)])
        ask = ParsedRequest(
            False, model or self.service.serving.model, (ids,), (tokens,), 1, 0, True, False, False, False
        )
        done, times = asyncio.get_running_loop().create_future(), []
        self.times.append(times)
        write = lambda _: times.append(self.clock.now_ns())  # noqa: E731 - a callback
        self.answers.append(self.service.answer(ask, write, lambda: done.set_result(times[:-1])))
        return done


def played(made, script):
    """What a script with a client makes of the server that `made` gives for a clock."""

    async def main():
        clock = LoopClock(asyncio.get_running_loop())
        service = made(clock.now_ns)
        running = asyncio.ensure_future(service.run_by(VirtualSleeper))
        try:
            return await script(Client(service, clock), service)
        finally:
            running.cancel()
            await asyncio.wait({running})

    return run_virtually(main)


def server(flags):
    """What makes a server with these flags."""
    return lambda now_ns: service_of(settings_from_flags(flags), now_ns)


def pair(prefill=1, decode=1, **flags):
    """What makes a deployment of so many prefill and decode servers."""

    def made(now_ns):
        sides = [("prefill", PRODUCER)] * prefill + [("decode", CONSUMER)] * decode
        members = [
            Member(f"{role}-{number}", role, service_of(settings_from_flags({**DENSE, **flags, **own}), now_ns))
            for number, (role, own) in enumerate(sides)
        ]
        return Deployment(members)

    return made


def step_ns(flags, *work):
    """How long a step takes."""
    return StepCost(settings_from_flags(flags)).duration_ns(*work)


def test_ranks_have_schedulers_and_counters_of_their_own():
    """Two requests go to two ranks, each alone in its steps, and /metrics has both under their numbers."""

    async def script(client, service):
        done = await asyncio.gather(client.send(100, 3), client.send(100, 3, 2))
        return done, service.metrics()

    done, text = played(server({**DENSE, "data_parallel_size": 2}), script)

    assert done[0][0] == done[1][0] == step_ns(DENSE, 0, 0, [(100, 0)])
    labels = 'model_name="Qwen/Qwen2.5-7B-Instruct"'
    assert f'vllm:generation_tokens_total{{engine="0",{labels}}} 3.0' in text
    assert f'vllm:generation_tokens_total{{engine="1",{labels}}} 3.0' in text
    assert text.count("# TYPE vllm:generation_tokens_total") == 1


def test_dense_ranks_do_not_wait_for_each_other():
    """A slow rank delays its own request alone, by its factor."""
    flags = {**DENSE, "data_parallel_size": 2, "rank_slowdown": {"1": 2.0}}

    async def script(client, _service):
        return await asyncio.gather(client.send(100, 2), client.send(100, 2, 2))

    quick, slow = played(server(flags), script)
    prefill = step_ns(DENSE, 0, 0, [(100, 0)])

    assert (quick[0], slow[0]) == (prefill, 2 * prefill)


def test_ranks_with_experts_wait_for_the_slowest():
    """A short prompt takes as long as the long one of the other rank, and a slow rank delays all."""
    flags = {**EXPERTS, "data_parallel_size": 2}

    async def script(client, _service):
        return await asyncio.gather(client.send(1000, 2), client.send(10, 2, 2))

    long, short = played(server(flags), script)
    slowed = played(server({**flags, "rank_slowdown": "1:3"}), script)

    assert long == short
    assert long[0] == step_ns(flags, 0, 0, [(1000, 0)], 0, 1010)
    assert slowed[1][1] - slowed[1][0] == pytest.approx(3 * step_ns(flags, 1, 10, (), 0, 2), abs=3)


def test_ranks_that_step_together_prefill_at_the_same_steps():
    """With an interval of 4 a prompt that comes while others decode waits for the next step whose number it divides."""
    flags = {**EXPERTS, "data_parallel_size": 2, "prefill_schedule_interval": 4}

    async def script(client, _service):
        first, _ = client.send(10, 12), client.send(10, 12, 2)
        await asyncio.sleep(0.001)
        later = await client.send(10, 1, 3)
        return (await first), later

    first, later = played(server(flags), script)
    plain = played(server({**flags, "prefill_schedule_interval": 1}), script)

    assert later[0] == first[4]  # the steps end with tokens 0, 1, 2, 3; the fifth may prefill again
    assert plain[1][0] == plain[0][1]


def test_an_idle_rank_computes_a_dummy_batch():
    """One request on one rank: the other takes part with one token in each step, and is as slow as it is."""
    flags = {**EXPERTS, "data_parallel_size": 2, "rank_slowdown": "1:5"}

    async def script(client, _service):
        return await client.send(10, 2)

    times = played(server(flags), script)

    assert times[1] - times[0] == round(5 * step_ns(flags, 1, 0, (), 0, 2))


def test_an_aborted_request_leaves_its_rank():
    """Whichever rank has it."""

    async def script(client, service):
        for number in range(3):
            client.send(100, 50, number)
        await asyncio.sleep(0.5)
        for answer in client.answers:
            service.abort(answer)
        await asyncio.sleep(0.5)
        return [(engine.unfinished, engine.state().kv_usage) for engine in service.engines]

    assert played(server({**DENSE, "data_parallel_size": 3}), script) == [(0, 0.0)] * 3


def test_a_pair_answers_after_prefill_transfer_and_a_decode_step():
    """The first token comes one prefill, one transfer and one decode step later, to the nanosecond."""
    settings = settings_from_flags({**DENSE, **CONSUMER})
    transfer_s = 1000 * token_bytes(settings) / transfer_rate(settings) + settings.kv_transfer_latency

    async def script(client, _service):
        return await client.send(1000, 3)

    times = played(pair(), script)
    prefill, decode = step_ns(DENSE, 0, 0, [(1000, 0)]), step_ns(DENSE, 1, 999, ())

    assert times[0] == pytest.approx(prefill + transfer_s * 1e9 + decode, abs=3)
    assert len(times) == 3


def test_bandwidth_and_latency_are_those_of_the_flags():
    """At 1 GB/s and 100 ms a transfer takes its bytes and its latency; the counters tell both."""
    flags = {"kv_transfer_bandwidth": 1, "kv_transfer_latency": 0.1}

    async def script(client, service):
        times = await client.send(1000, 1)
        return times, service.metrics_by_process()

    (first,), texts = played(pair(**flags), script)
    size = 1000 * token_bytes(settings_from_flags(DENSE))
    rest = step_ns(DENSE, 0, 0, [(1000, 0)]) + step_ns(DENSE, 1, 999, ())
    lines = dict(line.rsplit(" ", 1) for line in texts["decode-1"].splitlines() if not line.startswith("#"))
    labels = 'engine="0",model_name="Qwen/Qwen2.5-7B-Instruct"'

    assert first == pytest.approx(size + 100_000_000 + rest, abs=3)
    assert float(lines[f"vllm:nixl_bytes_transferred_sum{{{labels}}}"]) == size
    assert float(lines[f"vllm:nixl_xfer_time_seconds_sum{{{labels}}}"]) == pytest.approx(size / 1e9 + 0.1)
    assert "nixl" not in texts["prefill-0"]


def test_the_prefill_side_keeps_blocks_until_they_are_fetched():
    """While the transfer lasts both sides hold the prompt; afterwards only the decode side does."""

    async def script(client, service):
        done = client.send(1000, 100)
        await asyncio.sleep(step_ns(DENSE, 0, 0, [(1000, 0)]) / 1e9 + 0.01)
        usage = [[member.service.engine.state().kv_usage > 0 for member in service.members]]
        stages = service.members[1].service.engine.state().fetching
        await asyncio.sleep(0.2)
        usage.append([member.service.engine.state().kv_usage > 0 for member in service.members])
        await done
        usage.append([member.service.engine.state().kv_usage > 0 for member in service.members])
        return usage, stages

    usage, stages = played(pair(kv_transfer_latency=0.1), script)

    assert usage == [[True, True], [False, True], [False, False]]
    assert stages == (0, 1, 0)


def test_what_nobody_fetches_is_freed_after_a_while():
    """Blocks of a prompt that no decode server asks for stay for eight minutes, as with vLLM."""

    async def script(client, service):
        ids = array("q", range(1000))
        ask = ParsedRequest(False, client.service.serving.model, (ids,), (1,), 1, 0, False, False, False, False)
        answer = service.answer(replace(ask, kv_transfer_params={"do_remote_decode": True}), None, lambda: None)
        usage = []
        for pause_s in (1, KEPT_S - 2, 2):
            await asyncio.sleep(pause_s)
            usage.append(service.engine.state().kv_usage > 0)
        return usage, answer.body()["kv_transfer_params"]

    usage, params = played(server({**DENSE, **PRODUCER}), script)

    assert usage == [True, True, False]
    assert (params["do_remote_prefill"], params["do_remote_decode"], len(params["remote_block_ids"])) == (
        True,
        False,
        8,
    )


@pytest.mark.parametrize("full", [True, False], ids=["before its transfer", "in its transfer"])
def test_a_client_that_leaves_frees_both_sides(full):
    """At once where nothing is fetched yet; else when the transfer ends, which writes to the blocks until then."""

    async def script(client, service):
        prefill, decode = (member.service.engine for member in service.members)
        others = [client.send(1000, 400, number) for number in range(4 * full)]
        await asyncio.sleep(3)
        client.send(1000, 100, 9)
        await asyncio.sleep(1)
        held = prefill.state().kv_usage > 0
        service.abort(client.answers[-1])
        freed = prefill.state().kv_usage == 0
        await asyncio.sleep(2)
        late = prefill.state().kv_usage == 0
        await asyncio.gather(*others)
        return held, freed, late, decode.state().kv_usage

    flags = {"num_gpu_blocks_override": 40} if full else {"kv_transfer_latency": 2}

    assert played(pair(**flags), script) == (True, full, True, 0.0)


def test_a_full_decode_side_lets_requests_wait():
    """Where there are no blocks for a prompt its KV cache is not fetched before another answer has ended."""

    async def script(client, service):
        done = [client.send(1000, 20, number) for number in range(5)]
        decode, waiting = service.members[1].service.engine, []
        while not all(one.done() for one in done):
            waiting.append(decode.state().fetching[0])
            await asyncio.sleep(0.01)
        return max(waiting), [one.result() for one in done]

    waiting, times = played(pair(num_gpu_blocks_override=34), script)

    assert waiting > 0
    assert max(one[0] for one in times) > min(one[-1] for one in times)


@pytest.mark.parametrize(
    ("endpoint", "prefills"), [("completions", 1), ("chat", 1), ("responses", 0), ("embeddings", 0)]
)
def test_completions_and_chats_go_to_both_sides(endpoint, prefills):
    """What a proxy does not split goes to a decode server alone."""

    async def script(client, service):
        done = asyncio.get_running_loop().create_future()
        ids = (array("q", range(50)),)
        ask = ParsedRequest(
            endpoint == "chat", service.serving.model, ids, (1,), 1, 0, False, False, False, False, endpoint=endpoint
        )
        service.answer(ask, None, lambda: done.set_result(None))
        await done
        return [member.service.engine.metrics.finished["length"] for member in service.members]

    assert played(pair(), script) == [prefills, 1]


def test_least_loaded_servers_of_each_role_are_chosen():
    """Two pairs share four requests evenly, on both sides."""

    async def script(client, service):
        await asyncio.gather(*(client.send(500, 20, number) for number in range(4)))
        return [member.service.engine.metrics.finished["length"] for member in service.members]

    assert played(pair(2, 2), script) == [2, 2, 2, 2]


def test_adapters_make_steps_longer_and_their_number_is_limited():
    """Two adapters in a step cost more than one; with room for one the other's request waits for the first's end."""
    flags = {**DENSE, "enable_lora": True, "lora_modules": ["a=x", "b=x"]}

    async def script(client, _service):
        return await asyncio.gather(client.send(100, 3, 1, "a"), client.send(100, 3, 2, "b"))

    together, apart = (played(server({**flags, "max_loras": room}), script) for room in (2, 1))
    cost = StepCost(settings_from_flags(flags))

    assert together[0] == together[1]
    assert together[0][0] == step_ns(flags, 0, 0, [(100, 0), (100, 0)]) + cost.adapters_ns(2)
    assert apart[0][0] == step_ns(flags, 0, 0, [(100, 0)]) + cost.adapters_ns(1)
    assert apart[1][0] > apart[0][-1]


def test_a_published_run_of_ranks_with_experts_is_met_within_a_third():
    """Qwen3-30B-A3B, A3, TP2 DP2 EP, 4096 in, 2048 out, 32 at a time: 1,007 tok/s (vllm-ascend pull request 13946)."""
    flags = {**EXPERTS, "max_model_len": 8192, "tensor_parallel_size": 2, "data_parallel_size": 2, "max_num_seqs": 32}

    async def script(client, _service):
        await asyncio.gather(*(client.send(4096, 512, number) for number in range(32)))
        return client.clock.now_ns()

    prompt_s = 16 * step_ns(flags, 0, 0, [(4096, 0)], 0, 8192) / 1e9
    decoding_s = (played(server(flags), script) / 1e9 - prompt_s) * 2048 / 512

    assert 32 * 2048 / (prompt_s + decoding_s) == pytest.approx(1006.8, rel=1 / 3)
