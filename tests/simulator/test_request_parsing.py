"""Texts become tokens and back as stated."""

from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.request_parsing import answer_tokens, chat_ids, content_text, decode, encode, pieces, words

VOCAB = 4096


@given(st.lists(st.integers(0, VOCAB - 17), max_size=50))
def test_ids_survive_text(ids):
    """What is decoded is encoded to the same ids, so an answer in a later prompt hits the cache."""
    assert encode(decode(ids), VOCAB) == ids


@given(st.text())
def test_a_text_has_as_many_ids_as_words_and_all_are_in_the_vocabulary(text):
    """No id is one of the sixteen special ones."""
    ids = encode(text, VOCAB)

    assert len(ids) == len(words(text)) == len(pieces(text))
    assert all(0 <= number < VOCAB - 16 for number in ids)


def test_words_are_cut_as_stated():
    """At spaces, after twelve signs, and at every CJK character."""
    assert words("hello, big world") == ["hello,", "big", "world"]
    assert words("a" * 25) == ["a" * 12, "a" * 12, "a"]
    assert words("长文本 test") == ["长", "文", "本", "test"]


def test_a_conversation_grows_at_its_end():
    """The ids of a chat's first turn, without the open answer, start those of its second."""
    first = [{"role": "user", "content": "one two"}]
    answer = {"role": "assistant", "content": " t5 t6"}
    start = chat_ids(first, VOCAB, open_answer=False)
    both = chat_ids([*first, answer, {"role": "user", "content": "more"}], VOCAB)

    assert both[: len(start)] == start
    assert len(chat_ids(first, VOCAB)) == 2 + 5 + 3
    assert both[len(start) : len(start) + 3] == chat_ids(first, VOCAB)[-3:]
    assert both[len(start) + 3 : len(start) + 5] == [5, 6]


def test_answers_depend_on_prompt_and_seed_alone():
    """Positions may be asked in any cut."""
    draw = answer_tokens([1, 2, 3], VOCAB)

    assert [*draw(3, 7), *draw(7, 9)] == draw(3, 9)
    assert answer_tokens((1, 2, 3), VOCAB)(3, 9) == draw(3, 9)
    assert answer_tokens([1, 2, 3], VOCAB, seed=1)(3, 9) != draw(3, 9)
    assert answer_tokens([1, 2, 4], VOCAB)(3, 9) != draw(3, 9)


def test_content_may_be_parts():
    """The text parts of a message are joined; anything else is no text."""
    assert content_text([{"type": "text", "text": "a"}, {"type": "image_url"}]) == "a "
    assert content_text(None) == ""
