"""Faults that a user can mend, each with its exit code.

HarnessError                 one line: what, where, what was expected, the nearest right answer
├── InputError               a file, flag or value is wrong                       exit 2
│   └── ScenarioError        one or more faults in a YAML file, a line each       exit 2
├── EngineError              the engine did not start, cannot be reached or died  exit 3
├── RunInterruptedError      a signal ended a run before its first request        exit 130
└── ResultError              a result folder cannot be read or taken for a result exit 2

A failed request is data (a record with an error name), never an exception. Anything
that is not a HarnessError is a bug and keeps its traceback.
"""

import difflib
import re
from collections.abc import Iterable, Sequence

from harness.messages import Message, current_language, message, plain, render
from harness.safety.redaction import redact

EXIT_DONE = 0
EXIT_GATE = 1
EXIT_INPUT = 2
EXIT_ENGINE = 3
EXIT_INVALID = 4
EXIT_INTERRUPTED = 130

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")  # line ends, escapes, turned text


class HarnessError(Exception):
    """Something the user can mend; `lines` are printed one a line, without a traceback."""

    exit_code = EXIT_INPUT

    def __init__(self, *messages: Message | str) -> None:
        self.messages: Sequence[Message] = tuple(plain(m) if isinstance(m, str) else m for m in messages)
        super().__init__("\n".join(self.lines))

    @property
    def lines(self) -> Sequence[str]:
        """One line of English a message."""
        return tuple(displayable(render(message)) for message in self.messages)

    def localized_lines(self) -> Sequence[str]:
        """One line a message in the current language."""
        return tuple(displayable(render(message, current_language())) for message in self.messages)


def displayable(line: str) -> str:
    """A line for a terminal: a server's or an engine's words in it hold no secret, and no line end or control code."""
    return _CONTROL.sub(" ", redact(line))


class InputError(HarnessError):
    """A file, flag or value that was given is wrong."""


class ScenarioError(InputError):
    """Faults in a scenario or study file, each with file, line and key."""


class EngineError(HarnessError):
    """The engine did not start, cannot be reached, or died."""

    exit_code = EXIT_ENGINE


class RunInterruptedError(HarnessError):
    """A signal ended a run before its first request: there is no result."""

    exit_code = EXIT_INTERRUPTED


class ResultError(HarnessError):
    """A result folder is missing, incomplete or of an unknown format."""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice a mistyped word most likely meant, or None where nothing is near."""
    by_folded = {choice.lower().replace("-", "_"): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), by_folded, n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else None


def suggestion(word: str, choices: Iterable[str], *, limit: int = 12) -> Message:
    """End of an error: "did you mean 'x'?" where one is near, else the list of choices."""
    names = list(choices)
    near = nearest(word, names)
    if near is not None:
        return message("errors.did_you_mean", near=near)
    if len(names) > limit:
        return message("errors.expected_one_of_many", names=names[:limit])
    return message("errors.expected_one_of", names=names)
