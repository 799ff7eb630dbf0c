"""The manual's pages as text: marks filled in as the build does, and included files in place."""

import functools
import re
from pathlib import Path

from docs.tools.generated import filled

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
OUTPUTS = DOCS / "outputs"
READMES = {"en": ROOT / "README.md", "zh": ROOT / "README.zh.md"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
PAGES = sorted(path for path in DOCS.rglob("*.md") if not path.name.endswith(".zh.md"))
EVERY = [READMES["en"], *PAGES]


def chinese_of(page):
    """The Chinese counterpart of an English page."""
    return page.with_name(page.name.removesuffix(".md") + ".zh.md")


def written(page):
    """A page's own text, with included files in place."""
    return INCLUDED.sub(lambda mark: (ROOT / mark[1]).read_text(encoding="utf-8").rstrip("\n"), page.read_text("utf-8"))


@functools.cache
def built(page, language="en"):
    """A page's text as the build has it."""
    return filled(written(page), language)


def blocks(text, kind):
    """The contents of fenced blocks of a kind."""
    return [body for found, body in BLOCK.findall(text) if found == kind]


def words(text):
    """Everything that stands in code outside of blocks, word by word."""
    return {word for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text)) for word in re.findall(r"[\w-]+", code)}
