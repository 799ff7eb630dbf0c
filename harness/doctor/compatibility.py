"""Which versions belong together?

The table is that of vllm-ascend's public documentation, "Versioning policy"
(docs/source/community/versioning_policy.md of vllm-project/vllm-ascend), as of August 2026.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SOURCE = "vllm-ascend's versioning policy, August 2026"


@dataclass(frozen=True, slots=True)
class Release:
    """One release of vllm-ascend and what it is tested with; `python` is [least, first too new), None not told."""

    vllm_ascend: str
    vllm: str
    python: tuple[str, str] | None
    cann: str
    torch: str
    torch_npu: str | None = None


_NEW = ("3.10", "3.13")
_OLD = ("3.10", "3.12")
_OLDEST = ("3.9", "3.12")

RELEASES = (
    Release("0.23.0", "0.23.0", _NEW, "9.1.0", "2.10.0", "2.10.0.post4"),
    Release("0.23.0rc1", "0.23.0", _NEW, "9.0.1", "2.10.0", "2.10.0.post2"),
    Release("0.22.1rc1", "0.22.1", _NEW, "9.0.0", "2.10.0", "2.10.0"),
    Release("0.21.0rc1", "0.21.0", _NEW, "9.0.0", "2.10.0", "2.10.0"),
    Release("0.20.2rc1", "0.20.2", _OLD, "9.0.0", "2.10.0", "2.10.0"),
    Release("0.19.1rc1", "0.19.1", _OLD, "8.5.1", "2.9.0", "2.9.0"),
    Release("0.18.0", "0.18.0", _OLD, "8.5.1", "2.9.0", "2.9.0.post1"),
    Release("0.17.0rc1", "0.17.0", _OLD, "8.5.1", "2.9.0", "2.9.0"),
    Release("0.16.0rc1", "0.16.0", _OLD, "8.5.1", "2.9.0", "2.9.0"),
    Release("0.15.0rc1", "0.15.0", _OLD, "8.5.0", "2.9.0", "2.9.0"),
    Release("0.14.0rc1", "0.14.1", _OLD, "8.5.0", "2.9.0", "2.9.0"),
    Release("0.13.0", "0.13.0", _OLD, "8.5.0", "2.8.0", "2.8.0.post2"),
    Release("0.12.0rc1", "0.12.0", _OLD, "8.3.RC2", "2.8.0"),
    Release("0.11.0", "0.11.0", _OLDEST, "8.3.RC2", "2.7.1", "2.7.1.post1"),
    Release("0.10.2rc1", "0.10.2", _OLDEST, "8.2.RC1", "2.7.1"),
    Release("0.10.1rc1", "0.10.1", _OLDEST, "8.2.RC1", "2.7.1"),
    Release("0.10.0rc1", "0.10.0", _OLDEST, "8.2.RC1", "2.7.1"),
    Release("0.9.1", "0.9.1", _OLDEST, "8.2.RC1", "2.5.1", "2.5.1.post1"),
    Release("0.7.3", "0.7.3", _OLDEST, "8.1.RC1", "2.5.1"),
)
NEWEST = RELEASES[0]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A version that is not the one a release is tested with."""

    what: str
    found: str
    expected: str


def release_of(version: str) -> Release | None:
    """The row of an installed vllm-ascend, or of the release that it repairs; None where the table knows neither."""
    repaired = re.sub(r"\.post\d+$", "", _plain(version))
    return next((row for name in (version, repaired) for row in RELEASES if same(row.vllm_ascend, name)), None)


def same(one: str, other: str) -> bool:
    """Whether two versions are one, whatever their build (`+empty`, `+cpu`, `+git…`), case or leading v."""
    return _plain(one) == _plain(other)


def _plain(version: str) -> str:
    return version.strip().lower().removeprefix("v").partition("+")[0]


def mismatches(release: Release, found: Mapping[str, str]) -> Iterator[Mismatch]:
    """What differs from a release's row; `found` has versions by name, and what it lacks is not judged."""
    expected = {"vllm": release.vllm, "torch": release.torch, "torch-npu": release.torch_npu, "CANN": release.cann}
    for what, version in expected.items():
        if version is not None and what in found and not same(version, found[what]):
            yield Mismatch(what, found[what], version)
    if release.python is not None and "Python" in found:
        least, over = release.python
        if not _numbers(least) <= _numbers(found["Python"])[:2] < _numbers(over):
            yield Mismatch("Python", found["Python"], f"from {least} to below {over}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
