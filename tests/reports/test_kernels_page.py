"""What a CI job page and a CI test view read of a kernel bench."""

from xml.etree import ElementTree as ET

import reports
from reports import ci_files
from tests.kernels.test_result import fake, run

__all__ = ["fake"]  # a fixture


def test_a_job_page_and_a_test_view_stand_beside_the_page(tmp_path, fake):
    """Answer, warnings and a row a measurement; a wrong case fails, a skipped one is skipped, a measured one passes."""
    folder, _, summary = run(tmp_path, fake(**{"7": "wrong", "2": "skipped"}))
    reports.write_all(folder)
    lines = (folder / "summary.md").read_text(encoding="utf-8").splitlines()
    cases = ET.parse(folder / "junit.xml").getroot().findall("testsuite/testcase")
    rows = summary["kernels"]["rows"]

    assert f"**{ci_files.plain(summary['answer'])}**" in lines
    assert sum(line.startswith("- **") for line in lines) == len(summary["verdict"]["warnings"])
    assert sum(line.startswith("| decode") for line in lines) == sum(max(1, len(row["modes"])) for row in rows)
    assert not any("<b>" in line for line in lines)
    assert len(cases) == 1 + len(rows)
    assert [case.find("failure").get("type") for case in cases if case.find("failure") is not None] == [
        "invalid", "wrong",
    ]  # fmt: skip
    assert sum(case.find("skipped") is not None for case in cases) == 1
