"""What does this machine have, what is missing or wrong, and what mends it?"""

from harness.doctor.findings import MISSING, Finding
from harness.doctor.links import link_findings
from harness.doctor.machine import look
from harness.doctor.npus import npu_findings
from harness.doctor.software import software_findings
from harness.doctor.tuning import tuning_findings
from harness.telemetry.host_view import Probe

_NOWHERE = Finding(
    "NPU",
    MISSING,
    "no Ascend device, driver or npu-smi here; scenarios run on the embedded engine, which simulates one",
    "harness run scenarios/smoke.yaml (or on an Atlas host: install its driver, then harness doctor)",
)


def examine(probe: Probe, python: str) -> list[Finding]:
    """Everything that the doctor looks at, from the hardware up; `python` is the engine's interpreter."""
    machine = look(probe)
    found = list(npu_findings(probe, machine)) if machine.ascend else [_NOWHERE]
    found += software_findings(probe, machine, python)
    found += link_findings(probe, machine)
    found += tuning_findings(probe, machine)
    return found
