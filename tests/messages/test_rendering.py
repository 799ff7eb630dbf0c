"""Messages become sentences of a language, keep their parameters through JSON, and mark what came from outside."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.messages import (
    Message,
    current_language,
    language,
    language_of,
    localized,
    message,
    message_from,
    plain,
    render,
)
from harness.messages.rendering import Catalogue, catalogue, joined, number

DIED = message("client.worker_died", worker=3, status=-9)


@pytest.fixture
def sentences(monkeypatch):
    """A catalogue of a room `made` that stands in for the files."""
    made = {
        "en": Catalogue(
            {
                "made.late": (
                    "{count} request was {late_s:duration} late",
                    "{count} requests were {late_s:duration} late",
                ),
                "made.names": ("expected {names:or}",),
                "made.both": ("{first}, because {why}",),
                "made.word": ("no {word:quote}",),
            },
            lambda n: int(n != 1),
        ),
        "zh": Catalogue(
            {
                "made.late": ("{count} 个请求迟发 {late_s:duration}",),
                "made.names": ("应为{names:or}",),
                "made.both": ("{first}，因为{why}",),
                "made.word": ("没有{word:quote}",),
            },
            lambda n: 0,
        ),
    }
    monkeypatch.setattr("harness.messages.rendering.catalogue", lambda language, room: made[language])


def test_a_message_reads_in_both_languages():
    """The same data, two sentences."""
    assert render(DIED) == "load worker 3 died with exit status -9; its requests in flight are lost"
    assert render(DIED, "zh") == "负载进程 3 异常退出，退出码 -9；其在途请求已丢失"


@pytest.mark.parametrize(
    ("count", "english"),
    [(0, "0 requests were 12.0 ms late"), (1, "1 request was 12.0 ms late"), (2, "2 requests were 12.0 ms late")],
)
def test_a_count_chooses_the_form(sentences, count, english):
    """English has two forms, Chinese one."""
    late = message("made.late", count=count, late_s=0.012)

    assert render(late) == english
    assert render(late, "zh") == f"{count} 个请求迟发 12.0 ms"


def test_lists_are_joined_as_the_language_does(sentences):
    """`a, b or c` in English, `a、b 或 c` in Chinese."""
    names = message("made.names", names=["a", "b", "c"])

    assert render(names) == "expected a, b or c"
    assert render(names, "zh") == "应为a、b 或 c"


def test_a_message_may_be_a_parameter(sentences):
    """It is rendered in the language of the whole."""
    both = message("made.both", first=message("made.word", word="x"), why=DIED.parameters["worker"])

    assert render(both) == "no 'x', because 3"
    assert render(both, "zh") == "没有'x'，因为3"


def test_what_came_from_outside_is_marked(sentences):
    """A page can tell our words from those of a user or a server, and escape each."""
    text = render(message("made.word", word="<b>"), own=lambda t: t.upper(), outside=lambda t: f"[{t}]")

    assert text == "NO ['<b>']"
    assert render(plain("<i>"), outside=lambda t: f"[{t}]") == "[<i>]"


parameters = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.builds(Message, st.just("made.x"), st.dictionaries(st.sampled_from("abc"), inner, max_size=2))
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from("abcd"), parameters))
def test_json_keeps_a_message(values):
    """What was written is what is read."""
    said = Message("made.x", values)

    assert message_from(json.loads(json.dumps(said.as_dict()))) == said


def test_a_missing_parameter_is_a_bug():
    """No sentence is told with a hole in it."""
    with pytest.raises(KeyError):
        render(message("client.worker_died", worker=3))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LC_ALL": "", "LANG": "zh_TW"}, "zh"),
        ({"LANG": "de_DE"}, "en"),
    ],
)
def test_the_environment_says_the_language(environment, expected):
    """As POSIX orders its variables; English where we have no catalogue."""
    assert language_of(environment) == expected


def test_the_current_language_is_of_a_context():
    """It ends with the context, and errors follow it."""
    fault = HarnessError(DIED)

    with language("zh"):
        assert localized(DIED) == fault.localized_lines()[0] == "负载进程 3 异常退出，退出码 -9；其在途请求已丢失"
    assert current_language() == "en"
    assert fault.lines == fault.localized_lines() == (str(DIED),)


def test_numbers_are_written_by_their_format():
    """The formats of units, and a dash where there is no number."""
    assert [number(0.25, "share"), number(1536, "bytes"), number(None, "count"), number(2.0, "")] == [
        "25.0 %", "1.50 KiB", "–", "2",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no format 'shares'"):
        number(1, "shares")


@given(st.lists(st.text("ab", min_size=1), max_size=5))
def test_joining_loses_nothing(texts):
    """Every item stands in a joined list, in order."""
    assert joined(texts, "list", "en") == ", ".join(texts)


def test_an_unknown_room_has_no_sentences():
    """A code of no catalogue is a bug that is seen at once."""
    assert catalogue("en", "nowhere").sentences == {}
    with pytest.raises(KeyError):
        render(message("nowhere.code"))


def test_no_blank_stands_between_chinese_letters():
    """A name in Latin letters has blanks around it in a Chinese sentence, a Chinese one has none."""
    texts = [
        render(message("page_tuning.answer.best", trial=1, objective=name, value="2 s"), "zh")
        for name in ("goodput", "有效吞吐")
    ]

    assert texts == ["试验 1 的 goodput 达到 2 s。", "试验 1 的有效吞吐达到 2 s。"]


def test_an_unknown_language_is_refused_where_it_is_named():
    """With the languages that there are; the current one stays."""
    with pytest.raises(ValueError, match=r"^language 'xx': expected 'en' or 'zh'$"):
        language("xx")

    assert current_language() == "en"
