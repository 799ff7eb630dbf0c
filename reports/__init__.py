"""What does a result folder look like to a person? Frames, figures, one HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.results import store

if TYPE_CHECKING:
    from harness.comparison.comparison import Comparison


def preload() -> None:
    """Load the libraries that drawing takes, for a caller that has time now and will not have it later."""
    from reports import junit, markdown, page, vllm_bench  # noqa: F401, PLC0415 - loaded for later


def write_all(folder: Path, language: str = "en") -> Path:
    """Draw a result folder: report.html and summary.md in a language, junit.xml, vllm-bench.json; the page's path.

    Raises:
        ResultError: where the folder is no result, or one of its files is broken.
    """
    from harness.results.folder import read_files  # noqa: PLC0415 - likewise
    from reports import junit, markdown, page, vllm_bench  # noqa: PLC0415 - pandas and matplotlib load only where something is drawn
    from reports.data import gather  # noqa: PLC0415 - likewise

    if "kernels" in store.read_run(folder):
        from reports import kernels_files, kernels_page  # noqa: PLC0415 - likewise

        kernels_files.write(folder, store.read_run(folder), store.read_json(folder, store.SUMMARY), language)
        return put_into(kernels_page.write(folder), language)
    data = gather(read_files(folder))
    markdown.write(data.result, language)
    junit.write(data.result)
    vllm_bench.write(data)
    return put_into(page.write(data), language)


def put_into(page: Path, language: str) -> Path:
    """Put a page that was drawn into another language, "zh" or "en", which it is in; its path."""
    from reports.language import translated  # noqa: PLC0415 - likewise
    from reports.writing import write_text  # noqa: PLC0415 - likewise

    return page if language == "en" else write_text(page, translated(page.read_text(encoding="utf-8"), language))


def write_comparison(folder: Path, found: "Comparison", language: str = "en") -> Path:
    """Draw a comparison: compare.html and compare.md in a language, compare.xml, compare.json; the page's path."""
    from reports import compare_files, compare_page  # noqa: PLC0415 - likewise

    compare_files.write(folder, found, language)
    return put_into(compare_page.write(folder, found), language)


def write_study(folder: Path, language: str = "en") -> Path:
    """Draw the page of a tuning study in a language; its path.

    Raises:
        ResultError: there is no study.json, or it is broken.
    """
    from reports import tuning  # noqa: PLC0415 - likewise

    return put_into(tuning.write(folder), language)


def write_trace(folder: Path) -> Path:
    """Write trace.json of a result folder, for Perfetto or chrome://tracing; its path.

    Raises:
        ResultError: where the folder is no result, or one of its files is broken.
    """
    from harness.results.folder import read_files  # noqa: PLC0415 - likewise
    from reports import trace  # noqa: PLC0415 - likewise

    return trace.write(read_files(folder))


def write_index(folders: Sequence[Path], language: str = "en") -> Path:
    """Draw index.html, the history of several result folders, where they lie together, in a language; its path.

    Raises:
        ResultError: where one of them is no finished result.
    """
    from reports import history_page  # noqa: PLC0415 - likewise

    return put_into(history_page.write(folders), language)
