"""The machine and the versions of a run are written down."""

from harness.telemetry import environment
from tests.machines import A2, NO_DRIVER, PC, Machine


def test_driver_firmware_and_cann_are_those_of_the_machine(monkeypatch):
    """As npu-smi and the files of the installation tell them."""
    monkeypatch.setattr(environment, "this_host", A2.view)
    found = environment.environment()

    assert (found["driver"], found["firmware"], found["cann"]) == ("24.1.rc3", "7.5.0.1.129", "8.5.1")


def test_without_an_npu_there_are_no_versions_of_it(monkeypatch):
    """Nothing is made up, and nothing fails."""
    for machine in (PC, NO_DRIVER, Machine()):
        monkeypatch.setattr(environment, "this_host", machine.view)
        found = environment.environment()

        assert (found["driver"], found["firmware"]) == (None, None)
    assert found["cores"] > 0


def test_firmware_is_read_from_its_file_where_npu_smi_says_nothing():
    """A container may have the file and not the program."""
    files = {"/usr/local/Ascend/firmware/version.info": "Version=7.1.0.3.220\n"}

    assert environment.ascend_versions(Machine(files).view())["firmware"] == "7.1.0.3.220"
