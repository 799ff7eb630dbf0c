"""Secrets that this process knows, kept out of whatever it writes or prints.

Servers tell keys back in their refusals, and engines log what they were given. Each process notes
the secrets that it knows; foreign text passes `redact` where it enters, and so does every error and
every JSON file.
"""

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

_NAME = re.compile(r"(.*_)?(api_?key|token|secret(_.*)?|password|passwd|credentials?)", re.IGNORECASE)
_FEWEST_FOUND = 12  # characters; what is shorter under such a name may be a plain word
_ALONE = 8  # characters below which a secret is only removed where it stands as a word of its own
_BLOCK = 1 << 20

_shown: dict[str, str] = {}


def names_secret(name: str) -> bool:
    """Whether a header or a parameter of this name holds a secret."""
    plain = name.replace("-", "_").lower()
    words = ("authorization", "cookie", "set_cookie", "key", "sig", "signature", "code")
    return _NAME.fullmatch(plain) is not None or plain in words or plain.endswith(("_key", "_authorization", "_token"))


def register_secret(secret: str, name: str) -> None:
    """Note a secret; `name` says in its place what stood there, such as its environment variable."""
    if len(secret) >= 3:
        _shown[secret] = _shown[quote(secret, safe="")] = f"<{name}>"  # as addresses carry it, too


def registered_secrets() -> dict[str, str]:
    """The secrets that are known, for a process that helps this one."""
    return dict(_shown)


def register_secrets(shown: Mapping[str, str]) -> None:
    """Note what another process knows."""
    _shown.update(shown)


def forget_secrets() -> None:
    """Forget every secret."""
    _shown.clear()


def register_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Note what stands in the environment under names such as HF_TOKEN: engines inherit it."""
    for name, value in environment.items():
        if _NAME.fullmatch(name) and len(value) >= _FEWEST_FOUND:
            register_secret(value, name)


def register_password(url: str) -> None:
    """Note the password that an address carries."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return
    if password:
        register_secret(password, "password")
        register_secret(unquote(password), "password")


def redact(text: str) -> str:
    """A text without the secrets that are known."""
    lower = text.lower() if _shown else ""
    for secret, shown in _shown.items():
        if secret.lower() in lower:  # header values and hosts are told in lower case
            around = ("(?<![A-Za-z0-9])", "(?![A-Za-z0-9])") if len(secret) < _ALONE else ("", "")
            text = re.sub(re.escape(secret).join(around), shown.replace("\\", ""), text, flags=re.IGNORECASE)
    return text


def blank_secrets(pieces: list[bytes]) -> list[bytes]:
    """The pieces of an answer with stars in place of secrets: no byte moves to another piece."""
    if not _shown:
        return pieces
    raw = clean = b"".join(pieces)
    for secret in _shown:
        registered_secrets = secret.encode()
        if registered_secrets in clean:
            clean = clean.replace(registered_secrets, b"*" * len(registered_secrets))
    if clean is raw:
        return pieces
    ends = list(itertools.accumulate(map(len, pieces)))
    return [clean[end - len(piece) : end] for piece, end in zip(pieces, ends, strict=True)]


def redact_tree(value: Any) -> Any:
    """A JSON value with every text in it redacted."""
    if not _shown:
        return value
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(key) if isinstance(key, str) else key: redact_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_tree(item) for item in value]
    return value


def redact_file(path: Path) -> None:
    """Write over the secrets in a file of somebody else's text, at their length, so that nothing moves."""
    longest = max(map(len, _shown), default=0)
    if not longest or not path.is_file():
        return
    with path.open("r+b") as file:
        start = 0
        while block := file.read(_BLOCK):
            clean = block
            for secret in _shown:
                clean = clean.replace(secret.encode(), b"*" * len(secret.encode()))
            if clean != block:
                file.seek(start)
                file.write(clean)
            if len(block) < _BLOCK:
                return
            start += _BLOCK - 4 * longest  # a secret may lie across two blocks
            file.seek(start)
