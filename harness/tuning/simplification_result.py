"""The minimal winner as lines for a terminal, and as study.json has it."""

from collections.abc import Iterator
from typing import Any

from harness.messages import Message, message
from harness.tuning import elimination
from harness.tuning.elimination import RemovalTest
from harness.tuning.simplification import EQUAL, ONLY, SAME, FlagOutcome, MinimalWinner, stated_margin

_VERDICTS = {
    SAME: "tuning.flag_same",
    EQUAL: "tuning.flag_equal",
    ONLY: "tuning.flag_only",
    elimination.FREE: "tuning.flag_free",
    elimination.COSTS: "tuning.flag_costs",
    elimination.UNDECIDED: "tuning.flag_undecided",
    elimination.BROKEN: "tuning.flag_broken",
    elimination.FAILED: "tuning.flag_failed",
    elimination.UNTESTED: "tuning.flag_untested",
}


def simplification_lines(minimal: MinimalWinner) -> Iterator[Message]:
    """What was removed, what each kept flag is worth, and what that took."""
    removed = minimal.removed
    if removed:
        margin = stated_margin(minimal.rules, minimal.gain)
        yield message("tuning.flags_removed", flags=list(removed), count=len(removed), margin=margin)
    elif len(minimal.flags) == 1:
        yield message("tuning.one_flag")
    else:
        count = len(minimal.flags) - len(minimal.equal)
        yield message("tuning.no_flag_removed", count=count)
    if minimal.equal:
        yield message("tuning.flags_equal", flags=list(minimal.equal))
    yield from (_flag_line(flag) for flag in minimal.flags if flag.kept)
    most = minimal.rules.measurements
    if minimal.elimination.spent:
        yield message("tuning.simplification_spent", measurements=most, count=most)


def _flag_line(flag: FlagOutcome) -> Message:
    """A kept flag with its effect, or with why it was kept."""
    setting = {"name": flag.name, "value": flag.value, "default": flag.default}
    if flag.effect is None:
        return message("tuning.flag_kept", verdict=verdict_message(flag.verdict), **setting)
    if flag.effect.high is None or flag.effect.high >= 1:  # no loss was shown
        verdict = verdict_message(flag.verdict)
        return message("tuning.flag_kept_effect", verdict=verdict, effect=flag.effect.message, **setting)
    return message("tuning.flag_effect", effect=flag.effect.message, **setting)


def verdict_message(verdict: str) -> Message:
    """How the removal of a flag ended, in words."""
    return message(_VERDICTS[verdict])


def simplification_as_dict(minimal: MinimalWinner) -> dict[str, Any]:
    """As study.json has it: the rule, every flag with its effect, every test, what it took."""
    rules, result = minimal.rules, minimal.elimination
    return {
        "margin": stated_margin(rules, minimal.gain),
        "repeats": rules.repeats,
        "most_measurements": rules.measurements,
        "measurements": result.measurements,
        "minutes": minimal.minutes,
        "starts": minimal.starts,
        "spent": result.spent,
        "gain": minimal.gain.as_dict(),
        "flags": [_flag(flag) for flag in minimal.flags],
        "tests": [_test(test) for test in result.tests],
    }


def _flag(flag: FlagOutcome) -> dict[str, Any]:
    words = verdict_message(flag.verdict)
    return {
        "name": flag.name,
        "value": flag.value,
        "default": flag.default,
        "kept": flag.kept,
        "verdict": flag.verdict,
        "words": str(words),
        "message": words.as_dict(),
        "effect": None if flag.effect is None else flag.effect.as_dict(),
    }


def _test(test: RemovalTest) -> dict[str, Any]:
    failure = None if test.failure is None else test.failure.as_dict()
    ends = {"broken": list(test.broken), "failure": failure}
    return {"removed": list(test.removed), "verdict": test.verdict, "loss": test.loss.as_dict(), **ends}
