"""A YAML text is read as it is meant, and every value's place is known."""

import json

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from harness.scenario.yaml_document import MOST_CHARACTERS, Position, read_value, resolve

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


class _Quoting(yaml.SafeDumper):
    """Writes all text in quotes: PyYAML knows YAML 1.1 and leaves `0E0` bare, which is a number in 1.2."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@given(PLAIN)
@example({"0E0": "1e3"})
def test_what_yaml_writes_is_read_back(value):
    """Plain values written by PyYAML are read as they were, whatever their text looks like."""
    reading = read_value(yaml.dump(value, Dumper=_Quoting))

    assert reading.faults == []
    assert reading.value == value


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), PLAIN, max_size=4))
def test_json_is_read_as_json(value):
    """JSON is YAML: the same values come out."""
    assert read_value(json.dumps(value)).value == value


@given(st.text())
def test_no_text_at_all_breaks_the_reader(text):
    """Any text gives a value or a fault whose line is in the text."""
    reading = read_value(text)

    assert all(
        1 <= mark.line <= text.count("\n") + text.count("\r") + text.count("\x85") + 3 for mark, _ in reading.faults
    )


@given(st.text(alphabet="ab:-{}[],*&!'\"#?|>% \t\n01.~", max_size=60))
def test_no_string_of_yaml_signs_breaks_the_reader(text):
    """Signs that mean something to YAML, in any order, give a value or faults."""
    assert isinstance(read_value(text).faults, list)


def test_words_are_read_by_the_core_schema_of_yaml_1_2():
    """Only true and false are switches, and 1e3 is a number."""
    words = ["true", "False", "~", "", "null", "1e3", "0x10", "0o17", "-3", ".5", "1.", "2026-01-01", "12:30pm", "y"]

    read = [resolve(word) for word in words]

    assert read == [True, False, None, None, None, 1000.0, 16, 15, -3, 0.5, 1.0, "2026-01-01", "12:30pm", "y"]
    assert [type(value) for value in read[5:9]] == [float, int, int, int]


def test_quotes_make_text_of_any_word():
    """What stands in quotes is text, and is never ambiguous."""
    assert read_value("""['on', "010", '1:30', '~', "true"]""").value == ["on", "010", "1:30", "~", "true"]


def test_places_count_from_one():
    """A key's place is where the key stands, an item's where the item stands."""
    marks = read_value("a:\n  b: [1,\n   {c: 2}]\n").marks

    assert marks[()] == Position(1, 1)
    assert marks["a", "b"] == Position(2, 3)
    assert marks["a", "b", 1] == Position(3, 4)
    assert marks["a", "b", 1, "c"] == Position(3, 5)


def test_an_alias_is_a_value_of_its_own():
    """Two aliases of one anchor are equal values, but changing one leaves the other."""
    value = read_value("a: &x [1]\nb: *x\nc: *x\n").value

    assert value == {"a": [1], "b": [1], "c": [1]}
    assert value["b"] is not value["c"]


def test_a_text_without_end_is_refused_unread():
    """More than a million characters are no scenario."""
    reading = read_value("a" * (MOST_CHARACTERS + 1))

    assert [str(fault.reason) for _, fault in reading.faults] == ["too long; expected at most 1000000 characters"]


def test_depth_without_end_is_refused():
    """Nesting beyond 60 levels is a fault, and beyond Python's stack too."""
    texts = [str(read_value(text).faults[0][1].reason) for text in ("[" * 70 + "]" * 70, "[" * 600)]

    assert texts == ["nested too deeply; expected at most 60 levels"] * 2


def test_control_characters_have_their_line():
    """A character that YAML does not allow is told with its line."""
    mark, fault = read_value("a: 1\nb: \x00\n").faults[0]

    assert (mark.line, str(fault.reason)) == (2, "a control character; expected printable text")


def test_half_a_character_is_refused():
    """Text that could not be written to a file again is a fault where it is read."""
    mark, fault = read_value('a: 1\nb: "\\ud800"\n').faults[0]

    assert (mark.line, str(fault.reason)) == (2, "half a character; expected whole ones")


def test_a_value_may_not_begin_with_a_sign_of_yaml():
    """The sign is named, and quotes are advised."""
    fault = read_value("a: @home").faults[0][1]

    assert str(fault.reason) == "a value cannot begin with @; expected quotes around it"
