"""Parts of the manual's reference made from the code: keys from the JSON Schema, commands from the parser, scenarios.

Chinese descriptions stand in zh.yaml beside this file; one that is missing there ends the build with its name.
"""

import argparse
import functools
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from docs.tools import warnings
from harness.cli.parser import SERVE_PROXY, SERVE_SIM, _parser
from harness.messages import language as in_language
from harness.messages import localized
from harness.scenario.json_schema import schema_text

ROOT = Path(__file__).resolve().parents[2]
WORDS = {
    "en": {
        "key": "key",
        "meaning": "meaning",
        "expected": "expected",
        "default": "default",
        "required": "required",
        "argument": "argument",
        "file": "file",
        "question": "question",
        "below": "below",
        "code": "code",
        "severity": "severity",
        "says": "what it says",
        "next": "what to do",
    },
    "zh": {
        "key": "键",
        "meaning": "含义",
        "expected": "取值",
        "default": "默认值",
        "required": "必填",
        "argument": "参数",
        "file": "文件",
        "question": "要回答的问题",
        "below": "见下文",
        "code": "代码",
        "severity": "级别",
        "says": "内容",
        "next": "怎么办",
    },
}
SHARED = ("help", "lang")  # arguments of every command
MOST_KEYS = 5  # of a part that is shown in its owner's table; larger ones have tables of their own
MARK = re.compile(r"^<!-- generated: ([\w-]+)(?: ([\w.-]+))? -->$", re.MULTILINE)
DURATION = "ns|us|µs|ms|s|m|min|h"  # part of the schema's pattern for durations


@functools.cache
def chinese() -> dict[str, dict[str, str]]:
    """Chinese descriptions: by section, then by name."""
    loaded: dict[str, dict[str, str]] = yaml.safe_load((Path(__file__).parent / "zh.yaml").read_text(encoding="utf-8"))
    return loaded


@functools.cache
def schema() -> dict[str, Any]:
    """The JSON Schema of scenario and study files."""
    parsed: dict[str, Any] = json.loads(schema_text())
    return parsed


def described(section: str, name: str, english: str, language: str) -> str:
    """A description in a language: in zh.yaml under `Part.key`, or under `key` where all parts share it.

    Raises:
        KeyError: where the Chinese one is missing in zh.yaml.
    """
    if language == "en" or not english:
        return english
    texts = chinese()[section]
    shared = re.split(r"[. ]", name)[-1]
    if name not in texts and shared not in texts:
        raise KeyError(f"docs/tools/zh.yaml: {section}: no Chinese text for {name!r} ({english})")
    return texts.get(name) or texts[shared]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def keys_of(part: str, language: str) -> str:
    """A table of the keys of one part of a scenario, in the order of the schema."""
    word, found = WORDS[language], schema()["$defs"][part]
    rows = [_key_row(part, name, value, language) for name, value in found["properties"].items()]
    return _table([word["key"], word["meaning"], word["expected"], word["default"]], rows)


def _key_row(part: str, name: str, value: Mapping[str, Any], language: str) -> list[str]:
    english = value.get("description") or _definition(value).get("description", "")
    required = name in schema()["$defs"][part].get("required", ())
    default = WORDS[language]["required"] if required else _default(value)
    meaning = described("keys", f"{part}.{name}", english, language)
    return [f"`{name}`", meaning, _expected(value) or WORDS[language]["below"], default]


def _definition(value: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schema()["$defs"].get(value.get("$ref", "").rpartition("/")[2], {})
    return found


def _default(value: Mapping[str, Any]) -> str:
    default = value.get("default")
    if default is None or isinstance(default, dict):
        return "–"
    if isinstance(default, str):
        return f"`{default}`"
    return f"`{default:g}s`" if _is_duration(value) else f"`{json.dumps(default, ensure_ascii=False)}`"


def _is_duration(value: Mapping[str, Any]) -> bool:
    return any(DURATION in one.get("pattern", "") for one in value.get("anyOf", ()))


def _expected(value: Mapping[str, Any]) -> str:
    """What a key takes: choices, a type with its bounds, or keys; empty for parts with a table of their own."""
    if any("discriminator" in one for one in (value, *value.get("anyOf", ()))):
        return ""
    return ", ".join(dict.fromkeys(_shapes(value)))


def _shapes(value: Mapping[str, Any]) -> Iterator[str]:
    choices = (*value.get("anyOf", ()), *value.get("oneOf", ()))
    for one in choices:
        yield from () if _is_duration(value) and one.get("type") == "number" else _shapes(one)
    if "enum" in value:
        yield from (f"`{one}`" for one in value["enum"])
    elif "const" in value:
        yield f"`{value['const']}`"
    elif "$ref" in value:
        keys = _definition(value).get("properties", {})
        yield from [f"`{{{', '.join(keys)}}}`"] if len(keys) <= MOST_KEYS else ()
    elif value.get("type") == "array":
        yield f"`[{', '.join(dict.fromkeys(_plain(one) for one in _items(value)))}, …]`"
    elif DURATION in value.get("pattern", ""):
        yield "`60s`"
    elif value.get("type") not in (None, "null"):
        yield _plain(value)


def _items(value: Mapping[str, Any]) -> Iterator[str]:
    for item in (*value.get("prefixItems", ()), *([value["items"]] if isinstance(value.get("items"), dict) else ())):
        yield from (shape.strip("`") for shape in _shapes(item))


def _plain(value: Mapping[str, Any] | str) -> str:
    """A type with its bounds, such as `integer ≥ 1`."""
    if isinstance(value, str):
        return value
    kind = value["type"] if isinstance(value["type"], str) else " or ".join(value["type"])
    low, above = value.get("minimum"), value.get("exclusiveMinimum")
    bound = f" ≥ {low:g}" if low is not None else f" > {above:g}" if above is not None else ""
    return f"`{kind}{bound}`"


def commands(_name: str | None, language: str) -> str:
    """Each command with its usage and a table of its arguments, by the parser in the reader's language."""
    with in_language(language):
        choices, helps = subcommands()
        return "\n\n".join(_command(name, choices[name], helps[name], WORDS[language]) for name in choices)


def subcommands() -> tuple[dict[str, argparse.ArgumentParser], dict[str, str]]:
    """The parser of each command and its line in `harness --help`."""
    actions = [one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction)]
    helps = {one.dest: one.help or "" for one in actions[0]._choices_actions}
    return dict(actions[0].choices), helps


def _command(name: str, parser: argparse.ArgumentParser, summary: str, words: Mapping[str, str]) -> str:
    heading = f"## harness {name} {{ #{name} }}"
    if name in (SERVE_SIM, SERVE_PROXY):  # they read their own flags; the first takes any of `vllm serve`
        return f"{heading}\n\n```text\n{localized(f'cli.{name}_help'.replace('-', '_'))}\n```"
    parts = [heading, parser.description or summary, f"```text\n{_usage(parser)}\n```"]
    rows = [_argument_row(one) for one in parser._actions if one.dest not in SHARED]
    if rows:
        parts += [_table([words["argument"], words["meaning"]], rows)]
    return "\n\n".join(parts)


def _usage(parser: argparse.ArgumentParser) -> str:
    """How a command is typed, in lines of a page's width."""
    words = re.sub(r"\s+", " ", parser.format_usage())
    return textwrap.fill(
        words[words.index("harness ") :].strip(),
        width=96,
        subsequent_indent=" " * 4,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _argument_row(action: argparse.Action) -> list[str]:
    takes = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    name = action.option_strings[-1] if action.option_strings else ""
    return [f"`{f'{name} {takes}'.strip()}`", action.help or ""]


def scenarios(_name: str | None, language: str) -> str:
    """The scenarios that ship: a table of their questions, then each file."""
    files = sorted(SHIPPED.glob("*.yaml"))
    asked = {path: yaml.safe_load(path.read_text(encoding="utf-8"))["question"] for path in files}
    rows = [
        [f"[{path.stem}](#{path.stem})", described("questions", path.stem, asked[path], language)] for path in files
    ]
    table = _table([WORDS[language]["file"], WORDS[language]["question"]], rows)
    texts = [f"## {path.stem} {{ #{path.stem} }}\n\n```yaml\n{_shown(path)}```" for path in files]
    return "\n\n".join([table, *texts])


def _shown(path: Path) -> str:
    """A scenario's text without the line for editors."""
    return re.sub(r"^# yaml-language-server.*\n", "", path.read_text(encoding="utf-8"))


SHIPPED = ROOT / "scenarios"


def sentences(_name: str | None, language: str) -> str:
    """Every warning with its severities, its sentences and its next step, by the catalogue."""
    word = WORDS[language]
    return _table([word["code"], word["severity"], word["says"], word["next"]], warnings.rows(language))


GENERATORS: dict[str, Callable[[Any, str], str]] = {
    "keys": keys_of,
    "commands": commands,
    "scenarios": scenarios,
    "warnings": sentences,
}


def filled(markdown: str, language: str) -> str:
    """A text with its marks replaced.

    Raises:
        KeyError: where a mark names no generator, or a text has no translation.
    """
    return MARK.sub(lambda mark: GENERATORS[mark[1]](mark[2], language), markdown)
