"""The catalogues: both languages have every code, with the parameters that the code hands over, and nothing else."""

import ast
import gettext
import re
from functools import cache
from pathlib import Path

import jinja2
import pytest
from babel.messages.pofile import read_po

from harness.messages import LANGUAGES
from harness.messages.message import PLAIN
from harness.messages.rendering import HERE, SPECS, catalogue, placeholders, rooms
from tests.source import ROOT, nodes_of, trees

BUILDERS = {"message", "localized"}  # functions whose first argument is a code, and whose keywords are parameters
CODE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")


def listed():
    """The lines of converted.txt: a room, or `module: reason` for one that holds words of others."""
    lines = (Path(__file__).parent / "converted.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


CONVERTED = [line for line in listed() if ":" not in line]
WORDS_OF_OTHERS = dict(line.split(": ", 1) for line in listed() if ":" in line)


@cache
def entries(language):
    """Every code of a language with its sentences (one, or its plural forms)."""
    return {code: forms for room in rooms(language) for code, forms in catalogue(language, room).sentences.items()}


def calls():
    """Every call that builds a message from a literal code: where, the code, its parameters; None for `**`."""
    for name, tree in trees().items():
        for node in nodes_of(tree):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", getattr(node.func, "attr", "")) in BUILDERS
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and isinstance(node.args[0].value, str)
            ):
                words = {keyword.arg for keyword in node.keywords}
                yield f"{name}:{node.lineno}", node.args[0].value, None if None in words else words


@pytest.mark.parametrize("path", sorted(HERE.glob("*/*.po")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_babel_reads_a_catalogue_alike(path):
    """Codes, forms and the choice among forms are those of Babel, which takes no file with a mistake."""
    with path.open("rb") as file:
        entries = read_po(file, locale=path.parent.name, abort_invalid=True)
    forms = {
        entry.id if isinstance(entry.id, str) else entry.id[0]: (
            (entry.string,) if isinstance(entry.string, str) else tuple(entry.string)
        )
        for entry in entries
        if entry.id
    }
    plural = gettext.c2py(entries.plural_expr)
    ours = catalogue(path.parent.name, path.stem)

    assert dict(ours.sentences) == forms
    assert [ours.plural(n) for n in range(120)] == [plural(n) for n in range(120)]


def test_both_languages_have_every_code():
    """A code that one catalogue has, the others have."""
    assert set(entries("en")) == set(entries("zh"))


def test_a_code_stands_in_the_file_of_its_room():
    """The first part of a code names its file."""
    wrong = [
        (language, room, code)
        for language in LANGUAGES
        for room in rooms(language)
        for code in catalogue(language, room).sentences
        if not CODE.fullmatch(code) or code.partition(".")[0] != room
    ]

    assert wrong == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_form_names_the_same_parameters(language):
    """Plural forms and languages differ in words, not in what they tell."""
    english = {code: placeholders(forms[-1]).keys() for code, forms in entries("en").items()}
    wrong = [
        (code, form)
        for code, forms in entries(language).items()
        for form in forms
        if not form or placeholders(form).keys() | {"count"} != english[code] | {"count"}
    ]

    assert wrong == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_format_is_known(language):
    """A placeholder's format is one of those that rendering.py lists."""
    wrong = [
        (code, spec)
        for code, forms in entries(language).items()
        for form in forms
        for spec in placeholders(form).values()
        if spec and spec not in SPECS
    ]

    assert wrong == []


def test_every_message_of_the_code_is_in_the_catalogue_with_its_parameters():
    """What the code hands over is what the sentence tells: no parameter is missing, and none is unused."""
    known = {code: set(placeholders(forms[-1])) for code, forms in entries("en").items()}
    wrong = [
        (where, code, words, known.get(code))
        for where, code, words in calls()
        if code != PLAIN and (code not in known or (words is not None and words - {"count"} != known[code] - {"count"}))
    ]

    assert wrong == []


def test_every_code_of_the_catalogue_is_used():
    """A sentence that nothing says is removed."""
    texts = {
        node.value
        for tree in trees().values()
        for node in nodes_of(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    templates = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "reports" / "templates").glob("*.html"))
    unused = [code for code in entries("en") if code not in texts and code not in templates]

    assert unused == []


SENTENCE = re.compile(r"[A-Za-z]{2,}[,;:]? [a-z]{2,}[,;:]? [a-z]{2,}")


def sentences_in(tree):
    """Literal English of three words and more that is no docstring."""
    documents = {
        id(node.body[0].value)
        for node in nodes_of(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    fields = {id(node.value) for node in nodes_of(tree) if isinstance(node, ast.Expr)}
    for node in nodes_of(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documents | fields
            and SENTENCE.search(node.value)
        ):
            yield node.lineno, node.value


@pytest.mark.parametrize("room", CONVERTED)
def test_no_sentence_is_built_outside_the_catalogues(room):
    """Errors of programmers (ValueError and the like of `formats`) aside, English stands in the catalogues alone."""
    found = [
        (name, line, text)
        for name, tree in trees().items()
        if (name == room or name.startswith(room + ".")) and name not in WORDS_OF_OTHERS
        for line, text in sentences_in(tree)
        if not _told_to_programmers(tree, line)
    ]

    assert found == []


def _told_to_programmers(tree, line):
    """Whether a line is part of `raise ValueError(...)`, which is a fault of the code or becomes a message later."""
    return any(
        isinstance(node, ast.Raise)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        and getattr(getattr(node.exc, "func", None), "id", "") in {"ValueError", "TypeError", "KeyError"}
        for node in nodes_of(tree)
    )


def letters():
    """Every letter of the Chinese sentences."""
    return {letter for forms in entries("zh").values() for form in forms for letter in form}


def test_every_sign_is_one_that_chinese_fonts_have():
    """The fonts that a page names, on Linux, Windows and macOS, all cover GBK; and no rare or traditional letter."""
    signs = {sign for sign in letters() if sign > "\u2e7f"}
    hanzi = {letter for letter in signs if letter <= "\u9fff"} - {"\u6607"}  # of Ascend's own name

    assert "".join(sorted(signs)).encode("gbk")
    assert "".join(sorted(hanzi)).encode("gb2312")


def template_calls():
    """Every `t(...)` and `attr(...)` of the templates with a literal code: the template, the code, its parameters."""
    environment = jinja2.Environment(trim_blocks=True)
    for path in sorted((ROOT / "reports" / "templates").glob("*.html")):
        tree = environment.parse(path.read_text(encoding="utf-8"))
        for call in tree.find_all(jinja2.nodes.Call):
            name = getattr(call.node, "name", "")
            if name in {"t", "attr"} and isinstance(call.args[0], jinja2.nodes.Const):
                yield path.name, call.args[0].value, {word.key for word in call.kwargs}


def test_templates_hand_over_what_their_sentences_tell():
    """No parameter is missing, none is unused, and every code is known."""
    known = {code: set(placeholders(forms[-1])) for code, forms in entries("en").items()}
    wrong = [
        (where, code, words)
        for where, code, words in template_calls()
        if code not in known or words - {"count"} != known[code] - {"count"}
    ]

    assert wrong == []
    assert len(list(template_calls())) > 100
