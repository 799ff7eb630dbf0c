"""The language that a person reads: given by --lang, else by the locale of the environment, else English."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar

ENGLISH, CHINESE = "en", "zh"
LANGUAGES = (ENGLISH, CHINESE)
_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set decides, as in POSIX
_CURRENT: ContextVar[str] = ContextVar("language", default=ENGLISH)


def language_of(environment: Mapping[str, str]) -> str:
    """The language of a process's environment, one of `LANGUAGES`: `LANG=zh_CN.UTF-8` is zh; English by default."""
    locale = next((environment[name] for name in _VARIABLES if environment.get(name)), "")
    return CHINESE if locale.lower().startswith("zh") else ENGLISH


def current_language() -> str:
    """The language that `localized` writes in."""
    return _CURRENT.get()


def language(name: str) -> AbstractContextManager[None]:
    """A context within which `localized` writes in another language, one of `LANGUAGES`.

    Raises:
        ValueError: where it is none of these.
    """
    if name not in LANGUAGES:
        raise ValueError(f"language {name!r}: expected {' or '.join(map(repr, LANGUAGES))}")
    return _within(name)


@contextlib.contextmanager
def _within(name: str) -> Iterator[None]:
    token = _CURRENT.set(name)
    try:
        yield
    finally:
        _CURRENT.reset(token)
