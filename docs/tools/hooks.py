"""MkDocs hooks: `<!-- generated: NAME ARGUMENT -->` in a page becomes what docs/tools/generated.py makes of the code.

Generated parts are made at every build and are nowhere committed, so that they cannot be out of date.
"""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path, outside of any package

from docs.tools.generated import GENERATORS  # noqa: E402 - needs the path above

CJK = "\u3000-\u303f\u4e00-\u9fff\uff00-\uffef\u2018-\u201d"
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
BREAK = re.compile(rf"(?<=[{CJK}])\n *(?=[{CJK}])")
MARK = re.compile(r"^<!-- generated: ([\w-]+)(?: ([\w.-]+))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, **_rest: Any) -> str:
    """The page's text with its marks replaced, in the page's language."""
    language = getattr(page.file, "locale", "en")
    return joined(filled(markdown, language)) if language == "zh" else filled(markdown, language)


def joined(markdown: str) -> str:
    """A Chinese text without the line breaks inside its sentences, which a browser would show as spaces."""
    parts = FENCE.split(markdown)  # fenced blocks at the odd places
    return "".join(part if number % 2 else BREAK.sub("", part) for number, part in enumerate(parts))


def filled(markdown: str, language: str) -> str:
    """A text with its marks replaced.

    Raises:
        KeyError: where a mark names no generator, or a text has no translation.
    """
    return MARK.sub(lambda mark: GENERATORS[mark[1]](mark[2], language), markdown)
