"""What is a case of a kernel called: in a line, in a table, in a figure?"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

Labels = Mapping[str, Any]
_WORDS = {
    "batch": "batch {}",
    "query_tokens": "{} query tokens",
    "kv_tokens": "{} KV tokens",
    "step": "{}",
    "block_size": "block size {}",
    "model": "{}",
    "tensor_parallel_size": "tensor parallel {}",
    "dtype": "{}",
    "order": "{}",
}  # in the order in which they are said
ALWAYS = ("batch", "kv_tokens", "step", "block_size")


def varying(cases: Iterable[Labels]) -> frozenset[str]:
    """The axes by which these cases differ: without them two of them would have one name."""
    seen: dict[str, set[Any]] = {}
    for labels in cases:
        for name, value in labels.items():
            seen.setdefault(name, set()).add(value)
    return frozenset(name for name, values in seen.items() if len(values) > 1)


def axes_text(labels: Labels, axes: Collection[str]) -> str:
    """`batch 8, 2048 KV tokens, block size 32`: these axes of a case, those that it has."""
    return ", ".join(words.format(labels[name]) for name, words in _WORDS.items() if name in axes and name in labels)


def case_name(labels: Labels, path: str, differing: Collection[str] = ()) -> str:
    """`decode, batch 8, 2048 KV tokens, block size 32, fia`; `differing` axes are said, too."""
    parts = (str(labels.get("phase", "")), axes_text(labels, {*ALWAYS, *differing}), path)
    return ", ".join(part for part in parts if part)
