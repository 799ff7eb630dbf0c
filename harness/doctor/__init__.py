"""What does this machine have, what is missing or wrong, and what mends it?"""

from harness.doctor.findings import MISSING, Finding
from harness.doctor.hardware import inspect_hardware, link_findings, npu_findings
from harness.doctor.host_settings import host_findings
from harness.doctor.software import software_findings
from harness.telemetry.environment import HostView

_NOWHERE = Finding(
    "NPU",
    MISSING,
    "no Ascend device, driver or npu-smi here; scenarios run on the embedded engine, which simulates one",
    "harness run scenarios/smoke.yaml (or on an Atlas host: install its driver, then harness doctor)",
)


def examine(probe: HostView, python: str) -> list[Finding]:
    """Everything that the doctor looks at, from the hardware up; `python` is the engine's interpreter."""
    machine = inspect_hardware(probe)
    found = list(npu_findings(probe, machine)) if machine.ascend else [_NOWHERE]
    found += software_findings(probe, machine, python)
    found += link_findings(probe, machine)
    found += host_findings(probe, machine)
    return found
