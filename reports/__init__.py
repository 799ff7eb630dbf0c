"""Results as a person reads them: frames, figures, one HTML page, and its companions."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.messages import current_language, language
from harness.results import store

if TYPE_CHECKING:
    from harness.comparison.comparison import Comparison


def preload() -> None:
    """Load the libraries that drawing takes, for a caller that has time now and will not have it later."""
    from reports import ci_files, page, vllm_bench  # noqa: F401, PLC0415 - loaded for later


def write_all(folder: Path, lang: str | None = None) -> Path:
    """Draw a result folder: report.html, summary.md, junit.xml, vllm-bench.json; the page's path.

    `lang` is en or zh; without it the current language, here as below.

    Raises:
        ResultError: where the folder is no result, or one of its files is broken.
    """
    with language(lang or current_language()):
        return _WRITERS[store.kind_of(store.read_run(folder))](folder)


def _write_served(folder: Path) -> Path:
    from harness.results.folder import read_files  # noqa: PLC0415 - pandas and matplotlib load only where something is drawn
    from reports import ci_files, page, vllm_bench  # noqa: PLC0415 - likewise
    from reports.data import gather  # noqa: PLC0415 - likewise

    data = gather(read_files(folder))
    ci_files.write_markdown(data.result)
    ci_files.write_junit(data.result)
    vllm_bench.write(data)
    return page.write(data)


def _write_kernels(folder: Path) -> Path:
    from reports import kernels_page  # noqa: PLC0415 - likewise

    kernels_page.write_companions(folder, store.read_run(folder), store.read_json(folder, store.SUMMARY))
    return kernels_page.write(folder)


_WRITERS = {store.REQUEST_RUN: _write_served, store.KERNEL_RUN: _write_kernels}


def write_comparison(folder: Path, comparison: "Comparison", lang: str | None = None) -> Path:
    """Draw a comparison: compare.html, compare.md, compare.xml, compare.json; the page's path."""
    from reports import compare_page  # noqa: PLC0415 - likewise

    with language(lang or current_language()):
        compare_page.write_companions(folder, comparison)
        return compare_page.write(folder, comparison)


def write_study(folder: Path, lang: str | None = None) -> Path:
    """Draw the page of a tuning study, and its summary.md; the page's path.

    Raises:
        ResultError: there is no study.json, or it is broken.
    """
    from harness.results.study import read_study  # noqa: PLC0415 - likewise
    from reports import tuning, tuning_summary  # noqa: PLC0415 - likewise

    with language(lang or current_language()):
        tuning_summary.write_markdown(read_study(folder))
        return tuning.write(folder)


def write_trace(folder: Path) -> Path:
    """Write trace.json of a result folder, for Perfetto or chrome://tracing; its path.

    Raises:
        ResultError: where the folder is no result, or one of its files is broken.
    """
    from harness.results.folder import read_files  # noqa: PLC0415 - likewise
    from reports import trace  # noqa: PLC0415 - likewise

    return trace.write(read_files(folder))


def write_index(folders: Sequence[Path], lang: str | None = None) -> Path:
    """Draw index.html, the history of several result folders, beside them or else in the current folder; its path.

    Raises:
        ResultError: where one of them is no finished result.
    """
    from reports import history_page  # noqa: PLC0415 - likewise

    with language(lang or current_language()):
        return history_page.write(folders)
