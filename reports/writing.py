"""Writing a text into a result folder."""

from pathlib import Path


def write_text(path: Path, text: str) -> Path:
    """Write a text whole or not at all; what UTF-8 has no place for becomes a question mark."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(text.encode("utf-8", "replace"))
    draft.replace(path)
    return path
