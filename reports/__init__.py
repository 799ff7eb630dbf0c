"""What does a result folder look like to a person? Frames, figures, one HTML page."""

from pathlib import Path


def preload() -> None:
    """Load the libraries that drawing takes, for a caller that has time now and will not have it later."""
    from reports import junit, markdown, page, vllm_bench  # noqa: F401, PLC0415 - loaded for later


def write_all(folder: Path) -> Path:
    """Draw a result folder: report.html, summary.md, junit.xml and vllm-bench.json; the page's path.

    Raises:
        ResultError: where the folder is no result, or one of its files is broken.
    """
    from reports import junit, markdown, page, vllm_bench  # noqa: PLC0415 - pandas and matplotlib load only where something is drawn
    from reports.data import gather  # noqa: PLC0415 - likewise
    from reports.folder import read  # noqa: PLC0415 - likewise

    data = gather(read(folder))
    markdown.write(data.result)
    junit.write(data.result)
    vllm_bench.write(data)
    return page.write(data)
