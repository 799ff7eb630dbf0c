"""Prompts have the lengths, the sharing and the history that a scenario asks for."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from harness.errors import InputError
from harness.messages import message
from harness.results.request_table import MISSING
from harness.scenario.workload import WorkloadSpec
from harness.workload import build
from harness.workload.data_files import LEFT_OUT
from harness.workload.draws import SharedPrefix, random_source
from harness.workload.prompts import APPROXIMATE, ChatMessage, ChatPrompt, Reply, TextPrompt, TokenPrompt, Vocabulary

DATA = Path(__file__).parent.parent / "data"
SPEC = TypeAdapter(WorkloadSpec)
LEXICON = Vocabulary(tuple(f"w{n}" for n in range(100)), 9, exact=True, openers=("So", "Now"), exchange_tokens=7)

SYNTHETIC = {"kind": "synthetic", "input_tokens": {"uniform": [20, 60]}, "output_tokens": {"uniform": [1, 9]}}
CONVERSATION = {
    "kind": "conversation",
    "turns": {"uniform": [1, 5]},
    "input_tokens": {"uniform": [3, 30]},
    "output_tokens": {"uniform": [2, 20]},
    "think_time": {"exponential": "2s"},
    "prefix": {"tokens": 11, "groups": 2},
}
TRACE = {"kind": "trace", "path": "mooncake.jsonl"}
DATASET = {"kind": "dataset", "path": "sharegpt.json"}
ALL = [SYNTHETIC, {**SYNTHETIC, "prefix": {"tokens": 30, "groups": 3}}, CONVERSATION, TRACE, DATASET]


def made(written, endpoint="completions", seed=1, lexicon=LEXICON):
    """The workload that a scenario writes."""
    spec = SPEC.validate_python(written)
    return build(spec, endpoint=endpoint, seed=seed, vocabulary=lexicon, folder=DATA)


def ids(prompt):
    """The token ids of a prompt."""
    assert isinstance(prompt, TokenPrompt)
    assert prompt.ids.dtype == np.int32
    return prompt.ids.tolist()


def words(prompt):
    """The words of each message of a prompt."""
    assert isinstance(prompt, ChatPrompt)
    return [message.content.split(" ") for message in prompt.messages]


def told(prompt):
    """What a prompt says, as a value to compare."""
    return ids(prompt) if isinstance(prompt, TokenPrompt) else prompt


def shared(one, other):
    """How many first tokens two prompts have in common."""
    return next(
        (n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )


# ---- what holds for all of them


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize("written", ALL, ids=lambda written: written["kind"])
def test_contents_do_not_depend_on_the_order_of_calls(written, endpoint):
    """Any worker that makes any session's prompt, in any order, makes the same one."""
    forwards, backwards = made(written, endpoint), made(written, endpoint)
    places = [(index, turn) for index in range(9) for turn in range(len(forwards.session(index).turns))]
    ahead = {place: told(forwards.prompt(*place, ())) for place in places}

    assert ahead == {place: told(backwards.prompt(*place, ())) for place in reversed(places)}
    assert [forwards.session(n) for n in range(9)] == [backwards.session(n) for n in reversed(range(9))][::-1]


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize("written", ALL[:4], ids=lambda written: written["kind"])
def test_prompts_have_the_tokens_that_their_turns_say(written, endpoint):
    """The length of every prompt is what the plan asked for, history included."""
    workload = made(written, endpoint)
    asked = [
        (turn.input_tokens, index, n) for index in range(20) for n, turn in enumerate(workload.session(index).turns)
    ]

    assert [workload.prompt(index, n, ()).input_tokens for _, index, n in asked] == [tokens for tokens, _, _ in asked]


@pytest.mark.parametrize("written", ALL, ids=lambda written: written["kind"])
def test_a_fingerprint_knows_the_contents(written):
    """Equal for equal contents; another seed, endpoint or spec is seen."""
    base = made(written).fingerprint()

    assert made(written).fingerprint() == base
    assert made(written, seed=2).fingerprint() != base
    assert made(written, endpoint="chat").fingerprint() != base
    assert len(base) == 64


def test_a_fingerprint_knows_the_file_and_not_its_name(tmp_path):
    """A copy of a data file elsewhere is the same work; one changed byte is not."""
    text = (DATA / "mooncake.jsonl").read_text()
    copy, other = tmp_path / "copy.jsonl", tmp_path / "other.jsonl"
    copy.write_text(text)
    other.write_text(text.replace('"output_length": 9', '"output_length": 8'))
    prints = [made({**TRACE, "path": str(path)}).fingerprint() for path in (DATA / "mooncake.jsonl", copy, other)]

    assert prints[0] == prints[1] != prints[2]


def test_a_fingerprint_knows_the_words():
    """On chat another lexicon makes other prompts."""
    assert made(SYNTHETIC, "chat").fingerprint() != made(SYNTHETIC, "chat", lexicon=APPROXIMATE).fingerprint()


@given(seed=st.integers(0, 2**63), index=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_ids_stay_within_the_vocabulary(seed, index):
    """Only the asked range of ids is drawn from, its end excluded."""
    drawn = ids(made({**SYNTHETIC, "vocabulary": [100, 116]}, seed=seed).prompt(index, 0))

    assert min(drawn) >= 100
    assert max(drawn) <= 115


def test_ids_are_even_over_the_vocabulary():
    """Every id of the range is drawn about as often as any other."""
    drawn = ids(made({**SYNTHETIC, "input_tokens": 160_000, "vocabulary": [100, 116]}).prompt(0, 0))

    assert np.bincount(drawn)[100:].tolist() == pytest.approx([10_000] * 16, abs=4.5 * 97)


def test_long_prompts_begin_like_short_ones():
    """The draws of a place are a sequence: its length does not change its beginning, however long."""
    short = ids(made({**SYNTHETIC, "input_tokens": 1000}).prompt(3, 0))
    long = ids(made({**SYNTHETIC, "input_tokens": 200_000}).prompt(3, 0))

    assert long[:1000] == short
    assert len(set(long[100_000:])) > 3000


def test_contents_never_change_between_versions():
    """A recorded run can be repeated on any numpy: prompts follow from whole-number arithmetic alone."""
    prompt = made({**SYNTHETIC, "input_tokens": 8, "prefix": {"tokens": 3, "groups": 5}}).prompt(12, 0)

    assert ids(prompt) == [3647, 2962, 2012, 665, 1445, 1987, 554, 1024]


# ---- synthetic


def test_synthetic_prompts_share_nothing_by_default():
    """Two sessions' prompts differ from the first tokens on, so that no cache serves the second."""
    workload = made({**SYNTHETIC, "input_tokens": 256})
    prompts = [ids(workload.prompt(index, 0)) for index in range(200)]

    assert max(shared(one, other) for one in prompts[:20] for other in prompts[20:]) <= 2


def test_sessions_of_a_group_share_their_prefix_exactly():
    """The first tokens are the same within a group and others between groups; every group is used."""
    workload = made({**SYNTHETIC, "input_tokens": 100, "prefix": {"tokens": 64, "groups": 4}})
    prompts = [ids(workload.prompt(index, 0)) for index in range(200)]
    prefixes = {tuple(prompt[:64]) for prompt in prompts}

    assert len(prefixes) == 4
    assert max(sum(tuple(prompt[:64]) == prefix for prompt in prompts) for prefix in prefixes) < 90
    assert len({tuple(prompt[64:]) for prompt in prompts}) == 200


def test_a_prefix_is_part_of_the_prompt():
    """The asked length holds the prefix; where it is shorter, one token of its own still follows."""
    workload = made({**SYNTHETIC, "input_tokens": {"choice": {"values": [50, 90]}}, "prefix": {"tokens": 64}})
    lengths = {len(ids(workload.prompt(index, 0))) for index in range(50)}

    assert lengths == {65, 90}


def test_a_chat_prompt_leaves_room_for_its_template():
    """With 9 tokens of template, a prompt of 40 tokens has 31 words, the first of which may open a message."""
    workload = made({**SYNTHETIC, "input_tokens": 40}, "chat")
    (content,) = words(workload.prompt(0, 0))

    assert workload.exact
    assert len(content) == 31
    assert content[0] in LEXICON.openers
    assert set(content[1:]) <= set(LEXICON.words)
    assert workload.session(0).turns[0].input_tokens == 40


def test_a_chat_prompt_shorter_than_its_template_says_so():
    """A prompt cannot be shorter than the template and a word: the turn says what will be sent."""
    workload = made({**SYNTHETIC, "input_tokens": 4}, "chat")

    assert workload.session(0).turns[0].input_tokens == 10
    assert workload.prompt(0, 0).input_tokens == 10


def test_a_chat_prefix_is_shared_as_text():
    """On chat the words of the prefix are the same, from the first one on."""
    workload = made({**SYNTHETIC, "input_tokens": 60, "prefix": {"tokens": 32}}, "chat")
    one, other = (words(workload.prompt(index, 0))[0] for index in (0, 1))

    assert one[:32] == other[:32]
    assert one[32:] != other[32:]


def test_without_a_lexicon_chat_is_approximate():
    """Where the server cannot be asked, the workload says that its lengths are not exact."""
    workload = made(SYNTHETIC, "chat", lexicon=None)

    assert not workload.exact
    assert len(workload.notes) == 1
    assert made(SYNTHETIC).exact
    assert made(SYNTHETIC).notes == ()


# ---- conversation


def replies(workload, index, turns):
    """What a server might have answered: token ids of the asked lengths."""
    asked = workload.session(index).turns
    return [Reply(tuple(range(5000, 5000 + asked[n].output_tokens)), f"answer {n}") for n in range(turns)]


def longest(workload):
    """The session of the most turns among the first fifty."""
    return max(range(50), key=lambda index: len(workload.session(index).turns))


def test_a_conversation_grows_by_its_actual_replies():
    """The prompt of a turn is the prompt before it, the reply that came, and a new message."""
    workload = made(CONVERSATION)
    index = longest(workload)
    turns = workload.session(index).turns
    before = ids(workload.prompt(index, 0))
    for turn in range(1, len(turns)):
        came = replies(workload, index, turn)
        prompt = workload.prompt(index, turn, came)
        grown = [*before, *came[-1].token_ids]

        assert ids(prompt)[: len(grown)] == grown
        assert len(ids(prompt)) == turns[turn].input_tokens
        assert prompt.scripted == 0
        before = ids(prompt)


def test_a_shorter_reply_makes_a_shorter_prompt():
    """What is told is what came, not what was asked for."""
    workload = made(CONVERSATION)
    index = longest(workload)
    came = [Reply((5001,), "x")]

    asked = workload.session(index).turns[0].output_tokens
    assert len(ids(workload.prompt(index, 1, came))) == workload.session(index).turns[1].input_tokens - asked + 1


def test_a_reply_without_ids_is_scripted():
    """Completions cannot be told a text: ids of the asked length stand for it, and are counted."""
    workload = made(CONVERSATION)
    index = longest(workload)
    turns = workload.session(index).turns
    prompt = workload.prompt(index, 2, [Reply((7, 8), "x"), Reply(None, "some text")])

    assert prompt.scripted == turns[1].output_tokens
    assert ids(prompt)[turns[0].input_tokens : turns[0].input_tokens + 2] == [7, 8]


def test_a_chat_tells_replies_as_the_assistant():
    """Messages go by turns of user and assistant; a reply without a text is scripted in words."""
    workload = made(CONVERSATION, "chat")
    index = longest(workload)
    turns = workload.session(index).turns
    prompt = workload.prompt(index, 2, [Reply(None, "Good day."), Reply(None, "")])

    assert [message.role for message in prompt.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert prompt.messages[1] == ChatMessage("assistant", "Good day.")
    assert len(words(prompt)[3]) == prompt.scripted == turns[1].output_tokens
    assert not workload.exact


def test_thinking_comes_between_turns():
    """There is no pause before the first turn, and exponential ones with the asked mean before the others."""
    workload = made(CONVERSATION)
    sessions = [workload.session(index) for index in range(2000)]
    pauses = [turn.think_ns for session in sessions for turn in session.turns[1:]]

    assert {session.turns[0].think_ns for session in sessions} == {0}
    assert np.mean(pauses) == pytest.approx(2e9, rel=0.06)
    assert {len(session.turns) for session in sessions} == {1, 2, 3, 4, 5}
    assert not workload.single_turn
    assert made(SYNTHETIC).single_turn


def test_a_conversation_begins_with_the_prefix_of_its_group():
    """Sessions of a group share the prefix, which comes on top of the first message."""
    workload = made({**CONVERSATION, "prefix": {"tokens": 40, "groups": 2}, "input_tokens": 5})
    prompts = [ids(workload.prompt(index, 0)) for index in range(30)]

    assert {len(prompt) for prompt in prompts} == {45}
    assert len({tuple(prompt[:40]) for prompt in prompts}) == 2


# ---- recorded


def test_equal_hashes_are_equal_tokens():
    """Rows that share hash ids share exactly those blocks; the last block is cut to the length."""
    workload = made(TRACE)
    first, second, third, last = (ids(workload.prompt(row, 0)) for row in range(4))

    assert [len(prompt) for prompt in (first, second, third, last)] == [1100, 1030, 700, 400]
    assert shared(first, second) in range(1024, 1030)
    assert shared(first, third) in range(512, 515)
    assert shared(first, last) <= 2
    assert len(set(first)) > 900


def test_a_second_pass_of_a_trace_is_new_to_the_cache():
    """When the rows begin again they have the same lengths and share among themselves, but not with the first pass."""
    workload = made(TRACE)
    first, again, beside = (ids(workload.prompt(index, 0)) for index in (0, 4, 5))

    assert len(first) == len(again)
    assert shared(first, again) <= 2
    assert shared(again, beside) in range(1024, 1030)
    assert workload.session(4).turns == workload.session(0).turns


def test_a_trace_has_due_times():
    """The arrivals of a trace's rows go with its contents."""
    assert made(TRACE).due_ns.tolist() == [0, 0, 3_053_000_000, 3_154_000_000]
    assert made(SYNTHETIC).due_ns is None


def test_a_trace_on_chat_shares_words():
    """On chat a block is 512 words, and the template is part of the length."""
    workload = made(TRACE, "chat")
    first, second = (words(workload.prompt(row, 0))[0] for row in (0, 1))

    assert (len(first), len(second)) == (1091, 1021)
    assert shared(first, second) == 1021  # the third block begins where the template has cut
    assert workload.session(0).turns[0].input_tokens == 1100


def test_skipped_rows_are_told():
    """What a file's rows were left out for stands in the notes."""
    assert made({"kind": "trace", "path": "burstgpt.csv"}).notes == (
        message(LEFT_OUT, count=1, reason=message("workload.no_output_tokens")),
    )


def test_a_data_set_repeats_when_it_ends():
    """Prompts stand as they are in the file; only the server knows their tokens."""
    workload = made(DATASET)

    assert workload.size == 2
    assert workload.prompt(2, 0) == workload.prompt(0, 0) == TextPrompt("What is a page table?")
    assert workload.session(3).turns[0].input_tokens == MISSING
    assert workload.session(3).turns == workload.session(1).turns
    assert not workload.exact
    assert any("estimated" in str(note) for note in workload.notes)


def test_a_data_set_on_chat_is_messages():
    """A row's messages are told as they are."""
    workload = made({"kind": "dataset", "path": "prompts.jsonl"}, "chat")

    assert workload.prompt(1, 0).messages[0] == ChatMessage("system", "You translate.")
    assert workload.notes == ()


def test_a_scenario_may_set_the_length_of_answers():
    """output_tokens of the scenario stands in place of the file's own, drawn for each session."""
    workload = made({**DATASET, "output_tokens": {"uniform": [1, 1000]}})

    assert len({workload.session(index).turns[0].output_tokens for index in range(20)}) > 10
    assert not any("estimated" in str(note) for note in workload.notes)


def test_a_missing_file_is_told():
    """The path is looked up beside the scenario."""
    with pytest.raises(InputError, match=r"data/mooncake.json: no such file; did you mean 'mooncake.jsonl'\?"):
        made({**TRACE, "path": "mooncake.json"})


@given(st.floats(0.05, 0.95), st.integers(16, 128), st.integers(0, 2**40))
def test_whole_blocks_of_beginnings_come_to_the_share_that_is_asked_for(rate, block, seed):
    """Over many sessions the blocks that prompts share are that part of their tokens, as far as their lengths allow."""
    prefix = SharedPrefix(random_source(seed, "prefix"), groups=3, hit_rate=rate, block_size=block)
    lengths = np.random.default_rng(seed).integers(20 * block, 40 * block, 400).tolist()
    shared = [prefix.shared(index, length, length) for index, length in enumerate(lengths)]

    assert all(tokens % block == 0 and tokens < length for tokens, length in zip(shared, lengths, strict=True))
    assert sum(shared) / sum(lengths) == pytest.approx(rate, abs=0.01)
