"""The minimal winner on a study's page: its flags, what each of them is worth as a table and as a figure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.messages import Message, localized, stored
from harness.results.study import StudyFiles
from harness.scenario.study import unit_of
from reports.figures.effects import EffectRow, effects
from reports.figures.style import Head
from reports.svg import Drawing, drawn
from reports.tables import Cell
from reports.tuning_tables import gain_message, metric_name, value_text

_LONGEST = 60  # of a name in a figure
_HEADS = (
    "page_tuning.flags.flag",
    "page_tuning.flags.value",
    "page_tuning.flags.default",
    "page_tuning.flags.outcome",
    "page_tuning.flags.effect",
)


def shown_gain(result: StudyFiles) -> Mapping[str, Any]:
    """The gain of what is taken over the default: the minimal winner's, else the confirmed trial's; {} of neither."""
    gain = result.simplification.get("gain")
    if gain is None and result.chosen is not None:
        confirmation = result.confirmation
        gain = (confirmation.get("gains") or {}).get(str(confirmation.get("choice")))
    return gain or {}


def flags_of(result: StudyFiles, *, kept: bool) -> list[Mapping[str, Any]]:
    """The winner's flags that were kept, or those that were removed."""
    return [flag for flag in result.simplification.get("flags") or () if bool(flag.get("kept", True)) is kept]


def setting_texts(flags: Sequence[Mapping[str, Any]]) -> list[str]:
    """Flags with their values."""
    return [f"{flag.get('name')} {_plain(flag.get('value'))}" for flag in flags]


def _plain(value: Any) -> str:
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def flag_heads(result: StudyFiles) -> tuple[str, ...]:
    """The columns of the table of flags."""
    if not result.simplification:
        return ()
    return tuple(map(localized, _HEADS))


def flag_rows(result: StudyFiles) -> list[list[Cell]]:
    """Every flag of the winner: its value, the default, whether it is needed, and what is lost without it."""
    return [_flag_row(flag) for flag in result.simplification.get("flags") or ()]


def _flag_row(flag: Mapping[str, Any]) -> list[Cell]:
    kept = bool(flag.get("kept", True))
    effect = flag.get("effect")
    is_equal = flag.get("verdict") == "equal"
    removed = localized("page_tuning.flags.equal" if is_equal else "page_tuning.flags.removed")
    outcome = localized("page_tuning.flags.kept") if kept else removed
    return [
        Cell(str(flag.get("name")), foreign=True),
        Cell(_plain(flag.get("value")), foreign=True),
        Cell(_plain(flag.get("default")), foreign=True),
        Cell(outcome, "" if is_equal else localized(verdict_message(flag)), tone="good" if kept else "plain"),
        Cell("–" if not effect else localized(gain_message(effect))),
    ]


def verdict_message(flag: Mapping[str, Any]) -> Message:
    """How the removal of a flag ended, as the study words it."""
    return stored(flag.get("message"), str(flag.get("words") or "–"))


def effects_drawing(result: StudyFiles) -> Drawing | None:
    """The default, the minimal winner, and the minimal winner without each of its flags, in the objective's unit."""
    gain = shown_gain(result)
    rows = list(_effect_rows(result, gain)) if result.simplification and gain.get("after") else []
    if not rows:
        return None
    name = str(result.objectives[0]["name"])
    axis = localized("page_tuning.with_unit", objective=metric_name(name), unit=unit_of(name))
    axis = axis if unit_of(name) else metric_name(name)
    subtitle = localized("page_tuning.effects.subtitle", objective=axis)
    head = Head(localized("page_tuning.effects.title"), subtitle, simulated=result.marked)
    words = localized("page_tuning.effects.description", rows=[row.tip for row in rows])
    figure = effects(rows, axis, head, times=unit_of(name) == "s")
    return drawn(figure, "effects", head, words, localized("page_tuning.effects.caption"))


def _effect_rows(result: StudyFiles, gain: Mapping[str, Any]) -> Iterator[EffectRow]:
    name, after = str(result.objectives[0]["name"]), float(gain["after"])
    label = localized("page_tuning.effects.minimal")
    yield EffectRow(label, after, after, after, f"{label} {value_text(name, after)}", "best")
    kept = flags_of(result, kept=True)
    for flag in kept:
        effect = flag.get("effect") or {}
        if effect.get("after") is None or len(kept) == 1:
            continue
        label = localized("page_tuning.effects.without", flag=_drawable(flag.get("name")))
        yield EffectRow(label, *_ends(effect), f"{label}: {localized(gain_message(effect))}", "without")
    if gain.get("before") is not None:
        label = localized("page_tuning.effects.default")
        if len(kept) == 1:
            label = localized("page_tuning.effects.default_without", flag=_drawable(kept[0].get("name")))
        back = {"before": after, "after": gain["before"], **_turned(gain)}
        yield EffectRow(label, *_ends(back), f"{label} {value_text(name, float(gain['before']))}", "default")


def _drawable(name: Any) -> str:
    """A name as a figure can draw it: letters that a font may have, and no more than a row holds."""
    letters = str(name).encode("utf-8", "replace").decode()
    text = "".join(letter if letter.isprintable() else "?" for letter in letters)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _turned(gain: Mapping[str, Any]) -> dict[str, Any]:
    """The interval of a gain, seen from the other side."""
    low, high = (gain.get(end) for end in ("low", "high"))
    minimised = bool(gain.get("minimised"))
    return {"low": 1 / high if high else None, "high": 1 / low if low else None, "minimised": minimised}


def _ends(effect: Mapping[str, Any]) -> tuple[float, float, float]:
    """The value without a flag, and the interval of it beside the value with it."""
    value, before = float(effect["after"]), float(effect["before"])
    low, high = effect.get("low"), effect.get("high")
    if low is None or high is None or not low or not high:
        return value, value, value
    ends = (before / high, before / low) if effect.get("minimised") else (before * low, before * high)
    return value, *ends
