"""The words of a vocabulary are one token each, and it knows when they are not."""

import asyncio
import dataclasses
import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.workload import prompts as lexicon_module
from harness.workload.draws import random_source
from harness.workload.prompts import APPROXIMATE, CANDIDATES, Vocabulary, calibrate, estimated_tokens
from harness.workload.synthetic import Drawn, WordMedium


class FakeServer:
    """A /tokenize with a word-level vocabulary: unknown words fall into pairs of letters, some pairs merge.

    `first` tokens are what the template puts before the first message, `around` about each.
    """

    def __init__(self, *, unknown=(), merging=(), odd_at_start=(), first=3, around=5):
        self.unknown, self.merging, self.odd_at_start = set(unknown), set(merging), set(odd_at_start)
        self.first, self.around = first, around
        self.calls = 0

    def tokens(self, text):
        """Tokens of a text by greedy reading."""
        words, count, place = text.split(" "), 0, 0
        while place < len(words):
            if tuple(words[place : place + 2]) in self.merging:
                count, place = count + 1, place + 2
                continue
            word = words[place]
            odd = word in self.unknown or (place == 0 and word in self.odd_at_start)
            count += 1 + (max(1, len(word) // 2) if odd else 0)
            place += 1
        return count

    async def __call__(self, asked):
        """The answer of vLLM's /tokenize to a chat."""
        assert asked["add_generation_prompt"] is True
        assert [m["role"] for m in asked["messages"]] == ["user", "assistant", "user"][: len(asked["messages"])]
        self.calls += 1
        count = self.first + sum(self.around + self.tokens(message["content"]) for message in asked["messages"])
        return {"count": count, "tokens": [], "max_model_len": 4096}


def aligned(server):
    """The lexicon that a server's answers give."""
    return asyncio.run(calibrate(server, "model"))


def test_an_ordinary_vocabulary_is_exact():
    """All words are kept, and the template's tokens are found."""
    lexicon = aligned(FakeServer())

    assert lexicon.exact
    assert set(lexicon.words) == set(CANDIDATES)
    assert (lexicon.overhead(1), lexicon.overhead(3)) == (8, 28)


def test_words_of_several_tokens_are_left_out():
    """Words that the vocabulary does not hold whole are found among the others, by few calls."""
    unknown = set(CANDIDATES[5:250:9])
    server = FakeServer(unknown=unknown)
    lexicon = aligned(server)

    assert lexicon.exact
    assert set(lexicon.words) == set(CANDIDATES) - unknown
    assert server.calls < 500


def test_words_that_merge_are_left_out():
    """Words that become one token together are not told beside each other: one of them goes at least."""
    pairs = {("of", "the"), ("house", "night"), ("x", "y"), ("Z", "the"), ("car", "car")}
    server = FakeServer(merging=pairs)
    lexicon = aligned(server)

    assert lexicon.exact
    assert not any(set(pair) <= set(lexicon.words) for pair in pairs)
    assert len(lexicon.words) >= len(CANDIDATES) - 8
    assert server.calls < 400


def test_every_pair_of_candidates_is_tried():
    """The texts that look for merging words hold each ordered pair, and each word twice in a row."""
    met = {pair for text in lexicon_module._pairs() for pair in itertools.pairwise(text)}

    assert met >= set(itertools.product(CANDIDATES, repeat=2))


def test_a_message_begins_with_a_word_that_is_whole_there():
    """A word that is one token only after a space does not open a message."""
    odd = set(CANDIDATES[3:40:2])
    lexicon = aligned(FakeServer(odd_at_start=odd))

    assert lexicon.exact
    assert not odd & set(lexicon.openers)
    assert odd & set(lexicon.words)


def test_a_tokenizer_that_always_merges_is_not_believed():
    """Where all words merge, no text has the tokens of its words, and the search ends early."""
    server = FakeServer(merging=set(itertools.product(CANDIDATES, repeat=2)))
    lexicon = aligned(server)

    assert not lexicon.exact
    assert server.calls <= 2000


def test_a_tiny_vocabulary_is_not_exact():
    """With fewer than 32 whole words there is no lexicon to speak of; the template is known all the same."""
    lexicon = aligned(FakeServer(unknown=CANDIDATES[20:]))

    assert not lexicon.exact
    assert lexicon.overhead_tokens == 8
    assert lexicon.words == CANDIDATES


def test_a_server_that_counts_by_chance_is_not_believed():
    """Counts that do not follow from the words are noticed when random texts are verified."""

    class Drifting(FakeServer):
        async def __call__(self, asked):
            answer = await super().__call__(asked)
            long_text = len(asked["messages"][-1]["content"].split(" ")) > 280
            return {**answer, "count": answer["count"] + long_text}

    assert not aligned(Drifting()).exact


@pytest.mark.parametrize("answer", [None, {}, {"count": "many"}, {"error": "no such endpoint"}, {"count": None}])
def test_without_tokenize_the_lexicon_is_approximate(answer):
    """No endpoint, or another answer than vLLM's, is found by one call."""
    calls = []

    async def tokenize(asked):
        calls.append(asked)
        return answer

    assert aligned(tokenize) == APPROXIMATE
    assert not APPROXIMATE.exact
    assert len(calls) == 1


def test_a_server_that_stops_answering_is_not_believed():
    """An endpoint that fails half-way leaves no exact lexicon."""

    class Failing(FakeServer):
        async def __call__(self, asked):
            return await super().__call__(asked) if self.calls < 55 else None

    assert not aligned(Failing()).exact


def test_candidates_are_plain_words_without_repeats():
    """A repeat would be drawn twice as often; anything but letters may be split by a tokenizer."""
    assert len(set(CANDIDATES)) == len(CANDIDATES) >= 256
    assert all(re.fullmatch("[A-Za-z]+", word) for word in CANDIDATES)


def test_a_lexicon_survives_a_json_file():
    """Workers get it as plain values, and make the same prompts of it."""
    lexicon = aligned(FakeServer())
    again = Vocabulary(**json.loads(json.dumps(dataclasses.asdict(lexicon))))
    draws = random_source(1, "x").draws(50)

    assert WordMedium(again).prompt([Drawn(draws)]) == WordMedium(lexicon).prompt([Drawn(draws)])


@given(st.text(max_size=200), st.text(max_size=50))
def test_estimates_grow_with_the_text(text, more):
    """A longer text has no fewer tokens, and any text has one."""
    assert 1 <= estimated_tokens(text) <= estimated_tokens(text + more)


def test_estimates_know_wide_characters():
    """English has about four characters a token, Chinese about one and a half."""
    assert estimated_tokens("word " * 40) == 50
    assert estimated_tokens("分页内存" * 30) == 80
