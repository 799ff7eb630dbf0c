"""Real text has exactly the tokens that were asked for, by the server's own count, and shares what it should."""

import asyncio
import itertools
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from harness.errors import InputError
from harness.scenario.workload import TextFile, WorkloadSpec
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.service import service_of
from harness.workload import build
from harness.workload.draws import random_source
from harness.workload.prompts import APPROXIMATE, TokenPrompt, Vocabulary, calibrate
from harness.workload.real_text import (
    MOST_CHARACTERS,
    OPENING,
    PassageWriter,
    aligned_units,
    chat_text,
    file_text,
    shipped_text,
    text_of,
    token_text,
)
from harness.workload.synthetic import Drawn

DATA = Path(__file__).parent.parent / "data"
SPEC = TypeAdapter(WorkloadSpec)
SYNTHETIC = {"kind": "synthetic", "input_tokens": {"uniform": [20, 900]}, "output_tokens": 4}
SHARED = {**SYNTHETIC, "prefix": {"tokens": 150, "groups": 2}, "input_tokens": {"uniform": [200, 600]}}
CONVERSATION = {
    "kind": "conversation", "turns": 3, "input_tokens": {"uniform": [3, 90]}, "output_tokens": 5,
    "prefix": {"tokens": 40, "groups": 1},
}  # fmt: skip
TRACE = {"kind": "trace", "path": "mooncake.jsonl"}
SHORT = " ".join(shipped_text()[at : at + 9000] for at in (2000, 150_000, 170_000))
BYTE_SIGNS = [
    chr(byte) if byte in {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)} else None for byte in range(256)
]
_OTHERS = itertools.count(256)
BYTE_SIGNS = [sign or chr(next(_OTHERS)) for sign in BYTE_SIGNS]


class PairServer:
    """A /tokenize as byte-level or SentencePiece vocabularies cut text: within words, each with the space before it.

    A word falls into pieces of four bytes (characters), so that its tokens are many and its neighbours do not matter.
    """

    def __init__(self, *, byte_level=True, fails=(), strings=True):
        self.byte_level, self.fails, self.strings = byte_level, fails, strings
        self.calls = 0

    def pieces(self, text):
        """The strings of the tokens of a text."""
        cut = []
        for word in re.findall(r" ?[^ ]+| +", text):
            if self.byte_level:
                signs = [BYTE_SIGNS[byte] for byte in word.encode()]
            else:
                signs = list(word.replace(" ", "\u2581"))
                signs = [s if ord(s) < 0x3000 else "".join(f"<0x{b:02X}>" for b in s.encode()) for s in signs]
                signs = [piece for s in signs for piece in (re.findall(r"<0x..>", s) or [s])]
            group = ""
            for sign in signs:
                if len(sign) > 1 or len(group) == 4:
                    cut += [group] if group else []
                    group = ""
                if len(sign) > 1:
                    cut.append(sign)
                else:
                    group += sign
            cut += [group] if group else []
        return cut

    async def __call__(self, body):
        """The answer to a text or to a chat, whose template adds seven tokens."""
        self.calls += 1
        if "messages" in body:
            texts = [part["content"] for part in body["messages"]]
            return {"count": sum(len(self.pieces(text)) for text in texts) + 3 + 4 * len(texts), "tokens": []}
        assert body["add_special_tokens"] is False
        strings = self.pieces(body["prompt"])
        tokens = [zlib.crc32(string.encode()) % 30_000 for string in strings]
        return {"count": len(strings), "tokens": tokens, "token_strs": strings if self.strings else None}


VOCABULARY = Vocabulary(("the", "of", "to", "and"), 7, exact=True, openers=("the", "of", "So"), exchange_tokens=8)


def units_of(server, text=SHORT):
    """The material of a chat."""
    return asyncio.run(chat_text(text, server, "m", VOCABULARY))


def ids_of(text=SHORT, server=None):
    """The material of completions."""
    return asyncio.run(token_text(text, server or PairServer(), "m"))


CHAT = units_of(PairServer())
IDS = ids_of()


def made(written, endpoint="completions", seed=1, text=IDS):
    """The workload that a scenario writes, of this text."""
    spec = SPEC.validate_python(written)
    return build(spec, endpoint=endpoint, seed=seed, vocabulary=VOCABULARY, folder=DATA, text=text)


def counted(server, prompt):
    """The server's count of a chat."""
    messages = [{"role": part.role, "content": part.content} for part in prompt.messages]
    return asyncio.run(server({"messages": messages}))["count"]


# ---- how a text is cut


@given(
    st.lists(st.text(st.sampled_from("ab,.\n\t中文é“"), min_size=1, max_size=12), min_size=1, max_size=12),
    st.data(),
)
def test_units_have_the_tokens_that_lie_in_them(words, data):
    """Any cut of any text into tokens: units spell the text, tokens add up, and no token lies in two units."""
    words = [word for word in words if word.strip(" \n\t")] or ["a"]
    text = " ".join(words)
    spelled = [BYTE_SIGNS[byte] for byte in text.encode()]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(spelled) - 1)))) & set(range(1, len(spelled))))
    tokens = ["".join(spelled[a:b]) for a, b in itertools.pairwise([0, *cuts, len(spelled)])]
    units = aligned_units(text, tokens)

    assert " ".join(unit for unit, _ in units) == text
    assert sum(count for _, count in units) == len(tokens)
    begins = {len("".join(text.encode()[:cut].decode("latin-1").split())) for cut in (0, *cuts)}
    solid = [len("".join(unit.encode().decode("latin-1").split())) for unit, _ in units]
    assert set(itertools.accumulate(solid[:-1], initial=0)) <= begins  # white space is nobody's


def test_tokens_that_spell_another_text_are_not_taken():
    """A server that changes the text (lower case, say) says nothing of its units."""
    assert aligned_units("So It is", ["so", "\u0120it", "\u0120is"]) is None
    assert aligned_units("So It is", ["So", "\u0120It", "\u0120is"]) == [("So", 1), ("It", 1), ("is", 1)]
    assert aligned_units("So it is", ["\u2581So", "\u2581it\u2581i", "s"]) == [("So", 1), ("it is", 2)]


@pytest.mark.parametrize("byte_level", [True, False])
def test_messages_have_the_tokens_that_were_asked_for(byte_level):
    """Every length from 1 to 400, of one part and of two, by the server's own count."""
    server = PairServer(byte_level=byte_level)
    material = units_of(server)
    writer, source = PassageWriter(material, VOCABULARY), random_source(5, "x")

    assert material.exact
    for tokens in (*range(1, 60), 111, 256, 400, 1500):
        for starts in ((0,), (0, tokens // 2)) if tokens > 3 else ((0,),):
            text = writer(Drawn(source.draws(tokens, tokens, len(starts)), starts))
            assert len(server.pieces(text)) == tokens


def test_the_simulators_tokenizer_cuts_the_text_that_ships_exactly():
    """The embedded engine serves real text as any other: through its own /tokenize."""
    service = service_of(settings_from_flags({"model": "Qwen/Qwen2.5-0.5B-Instruct"}))

    async def tokenize(body):
        return service.tokenize(body)

    async def materials():
        words = await calibrate(tokenize, "Qwen/Qwen2.5-0.5B-Instruct")
        return words, await chat_text(SHORT, tokenize, "Qwen/Qwen2.5-0.5B-Instruct", words)

    vocabulary, material = asyncio.run(materials())
    workload = build(
        SPEC.validate_python(SYNTHETIC), endpoint="chat", seed=3, vocabulary=vocabulary, folder=DATA, text=material
    )

    assert workload.exact
    assert workload.text == "real"
    for index in range(30):
        prompt = workload.prompt(index, 0)
        assert service.tokenize({"messages": [{"role": "user", "content": prompt.messages[0].content}]})[
            "count"
        ] == prompt.input_tokens == workload.session(index).turns[0].input_tokens  # fmt: skip


@pytest.mark.parametrize("server", [PairServer(strings=False), PairServer()], ids=["no strings", "strings"])
def test_a_server_that_shows_no_strings_gives_an_approximate_text(server):
    """Units are then words of estimated lengths, and the workload says that it is not exact."""
    material = units_of(server)

    assert material.exact is (server.strings is True)
    assert made(SYNTHETIC, "chat", text=material).exact is material.exact
    assert bool(made(SYNTHETIC, "chat", text=material).notes) is not material.exact


def test_without_tokenizer_there_are_no_ids():
    """A server that has no /tokenize, or answers nonsense, leaves random tokens."""

    async def answer(value):
        return value

    for value in (None, {}, {"tokens": "7"}, {"tokens": [1, -2]}, {"tokens": [1.5]}, {"tokens": [2**40]}):
        assert asyncio.run(token_text(SHORT, lambda _body, value=value: answer(value), "m")) is None
    chat = asyncio.run(chat_text(SHORT, lambda _body: answer(None), "m", APPROXIMATE))
    assert (chat.exact, bool(chat.units)) == (False, True)


# ---- what prompts share


def test_ids_are_runs_of_the_text():
    """A prompt is eight ids of one place of the text, and a run from another."""
    text = np.tile(np.asarray(IDS.ids), 2)
    runs = {tuple(text[at : at + OPENING]) for at in range(len(IDS.ids))}
    workload = made(SYNTHETIC)
    for index in range(50):
        ids = workload.prompt(index, 0).ids
        assert tuple(ids[:OPENING]) in runs
        rest = ids[OPENING:]
        places = np.flatnonzero(text[: len(IDS.ids)] == rest[0])
        assert any((text[at : at + len(rest)] == rest).all() for at in places)


def beginning(prompt):
    """What two prompts have in common is compared by: token ids, or the words of the first message."""
    return prompt.ids.tolist() if isinstance(prompt, TokenPrompt) else prompt.messages[0].content.split(" ")


def in_common(one, other):
    """How many first parts two prompts share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, pair in pairs if pair[0] != pair[1]), min(len(one), len(other)))


@pytest.mark.parametrize(("endpoint", "text"), [("completions", IDS), ("chat", CHAT)])
def test_prompts_share_only_what_was_asked_for(endpoint, text):
    """No two of 400 prompts begin alike for a block of 16; those of a group share its prefix, and no block more."""
    workload = made(SYNTHETIC, endpoint, text=text)
    alone = [beginning(workload.prompt(index, 0)) for index in range(400)]
    alone.sort()
    assert max(in_common(*pair) for pair in itertools.pairwise(alone)) < 16
    workload = made(SHARED, endpoint, text=text)
    groups = [beginning(workload.prompt(index, 0)) for index in range(60)]
    longest = [max(in_common(one, other) for other in groups if other is not one) for one in groups]
    assert max(longest) < 150 + 16
    if endpoint == "completions":
        assert len({tuple(ids[:150]) for ids in groups}) == 2


@pytest.mark.parametrize(("endpoint", "text"), [("completions", IDS), ("chat", CHAT)])
@pytest.mark.parametrize("written", [SYNTHETIC, SHARED, CONVERSATION, TRACE], ids=lambda written: written["kind"])
def test_the_same_seed_makes_the_same_prompts(written, endpoint, text):
    """In any order, in any process; another seed makes others; and lengths are what the sessions say."""
    one, same, other = (made(written, endpoint, seed, text) for seed in (1, 1, 2))
    places = [(index, turn) for index in range(6) for turn in range(len(one.session(index).turns))]
    prompts = {place: str(beginning(one.prompt(*place))) for place in places}

    assert prompts == {place: str(beginning(same.prompt(*place))) for place in reversed(places)}
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert all(
        one.prompt(index, turn).input_tokens == one.session(index).turns[turn].input_tokens for index, turn in places
    )
    if endpoint == "chat":
        assert all(counted(PairServer(), one.prompt(*place)) == one.prompt(*place).input_tokens for place in places[:9])


def test_a_recorded_block_says_the_same_wherever_it_stands():
    """Requests of a trace that share hashed blocks share their text."""
    workload = made(TRACE)
    rows = [json.loads(line) for line in (DATA / "mooncake.jsonl").read_text().splitlines()]
    rows.sort(key=lambda row: row["timestamp"])
    hashes = [row.get("hash_ids") or [] for row in rows]
    for one, other in itertools.combinations(range(len(rows)), 2):
        blocks = in_common(hashes[one], hashes[other])
        shared = min(blocks * 512, rows[one]["input_length"], rows[other]["input_length"])
        first, second = (workload.prompt(index, 0).ids.tolist() for index in (one, other))
        assert first[:shared] == second[:shared]


def test_what_is_sent_follows_from_the_text():
    """Random prompts have the fingerprint that they had before there was a text; each text has its own."""
    plain = made(SYNTHETIC, text=None)

    assert plain.text == "random"
    assert plain.fingerprint() == made({**SYNTHETIC, "text": None}, text=None).fingerprint()
    assert "text" not in json.loads(plain.identity)["workload"]
    assert made(SYNTHETIC).fingerprint() != made(SYNTHETIC, text=ids_of(SHORT[3000:])).fingerprint()


# ---- texts


def test_the_text_that_ships_names_its_source_and_licence():
    """Three files, with where each is from; their heads are no part of the text."""
    folder = Path(text_of.__code__.co_filename).with_name("texts")
    heads = [path.read_text(encoding="utf-8").partition("---\n")[0] for path in sorted(folder.iterdir())]

    assert len(heads) == 3
    assert all(head.startswith("Source: ") and "\nLicence: " in head for head in heads)
    assert not any("Licence" in part for part in (shipped_text(), shipped_text()[:200]))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 400_000
    assert {"Alice", "闰土", "def "} <= {word for word in ("Alice", "闰土", "def ") if word in shipped_text()}


@settings(deadline=None)
@given(st.integers(0, 3))
def test_any_length_repeats_the_text_where_it_is_short(times):
    """A prompt that is longer than the text goes on from its begin."""
    small = ids_of(SHORT[:400])
    workload = made({**SYNTHETIC, "input_tokens": small.tokens * times + 50}, text=small)

    assert len(workload.prompt(0, 0).ids) == small.tokens * times + 50


def test_a_data_set_or_a_file_gives_the_text(tmp_path):
    """Prompts of a data set one after another, or the file's own text; what has none is refused."""
    rows = [{"prompt": f"Question {number} of many."} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "notes.txt").write_text("One two\nthree")
    (tmp_path / "long.txt").write_text("word " * MOST_CHARACTERS)
    (tmp_path / "empty.txt").write_text(" \n")

    assert text_of(TextFile(path="rows.jsonl"), tmp_path).startswith("Question 0 of many.\n\nQuestion 1")
    assert text_of(TextFile(path="notes.txt"), tmp_path) == "One two\nthree"
    assert len(file_text(tmp_path / "long.txt")) == MOST_CHARACTERS
    (tmp_path / "chinese.txt").write_text("我在年青时候也曾经做过许多梦。后来大半忘却了。")
    chinese = units_of(PairServer(), text_of(TextFile(path="chinese.txt"), tmp_path))
    assert (len(chinese.units), chinese.exact) == (2, True)
    assert len(made({**SYNTHETIC, "input_tokens": 40}, text=ids_of("我在。")).prompt(0, 0).ids) == 40
    for name in ("empty.txt", "none.txt"):
        with pytest.raises(InputError, match=name):
            text_of(TextFile(path=name), tmp_path)
