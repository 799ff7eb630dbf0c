"""MkDocs hooks: `<!-- generated: NAME ARGUMENT -->` in a page becomes what docs/tools/generated.py makes of the code.

Generated parts are made at every build and are nowhere committed, so that they cannot be out of date.
"""

import logging
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path, outside of any package

import jieba  # noqa: E402 - parts Chinese words for the search

from docs.tools.generated import filled  # noqa: E402 - needs the path above

jieba.setLogLevel(logging.WARNING)

CJK = "\u3000-\u303f\u4e00-\u9fff\uff00-\uffef\u2018-\u201d"
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
BREAK = re.compile(rf"(?<=[{CJK}])\n *(?=[{CJK}])")


def on_page_markdown(markdown: str, *, page: Any, **_rest: Any) -> str:
    """The page's text with its marks replaced, in the page's language."""
    language = getattr(page.file, "locale", "en")
    return joined(filled(markdown, language)) if language == "zh" else filled(markdown, language)


def joined(markdown: str) -> str:
    """A Chinese text without the line breaks inside its sentences, which a browser would show as spaces."""
    parts = FENCE.split(markdown)  # fenced blocks at the odd places
    return "".join(part if number % 2 else BREAK.sub("", part) for number, part in enumerate(parts))
