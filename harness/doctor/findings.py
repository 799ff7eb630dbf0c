"""The doctor's findings: what was looked at, how severe it is, what was seen, and what mends it; and their lines."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.messages import Message, localized, message

OK, NOTE, MISSING, WRONG = "ok", "note", "missing", "wrong"
FAULTS = (MISSING, WRONG)
_SEVERITIES: Mapping[str, str] = {
    OK: "doctor.ok",
    NOTE: "doctor.note",
    MISSING: "doctor.missing",
    WRONG: "doctor.wrong",
}
# Topics that are words of a language; all others are names of programs, packages and devices.
_TOPICS: Mapping[str, str] = {
    "driver": "doctor.topic_driver",
    "firmware": "doctor.topic_firmware",
    "devices": "doctor.topic_devices",
    "mounts": "doctor.topic_mounts",
    "shared memory": "doctor.topic_shared_memory",
    "NPU memory": "doctor.topic_npu_memory",
    "links": "doctor.topic_links",
    "ports": "doctor.topic_ports",
    "versions": "doctor.topic_versions",
    "variables": "doctor.topic_variables",
    "allocator": "doctor.topic_allocator",
    "CPU clock": "doctor.topic_cpu_clock",
    "swapping": "doctor.topic_swapping",
    "generate": "doctor.topic_generate",
}
_SEVERITY_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked: `topic`, `severity` (OK, NOTE, MISSING or WRONG), what was seen, what mends it.

    `topic` is the same in every language; `message` and `remedy` are rendered when they are printed.
    """

    topic: str
    severity: str
    message: Message
    remedy: Message | None = None

    @property
    def code(self) -> str:
        """The stable name of what was found."""
        return self.message.code


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each finding, and below it, after an arrow, what mends it; in the current language."""
    topics = [localized(_TOPICS[row.topic]) if row.topic in _TOPICS else row.topic for row in findings]
    columns = max(map(_width, topics), default=0)
    lines: list[str] = []
    for topic, row in zip(topics, findings, strict=True):
        severity = _padded(localized(_SEVERITIES[row.severity]), _SEVERITY_COLUMNS)
        lines.append(f"{severity} {_padded(topic, columns)}  {localized(row.message)}")
        if row.remedy is not None:
            lines.append(f"{'':<{_SEVERITY_COLUMNS}} {'':<{columns}}  -> {localized(row.remedy)}")
    return lines


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - _width(text))


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def closing_line(findings: Iterable[Finding]) -> str:
    """How many faults there are, in one sentence of the current language."""
    severities = [row.severity for row in findings]
    counts = [
        message("doctor.fault_count", faults=severities.count(fault), severity=message(_SEVERITIES[fault]))
        for fault in FAULTS
        if fault in severities
    ]
    return localized("doctor.faults", counts=counts) if counts else localized("doctor.all_passed")
