"""Checks of a machine: its NPUs, its software and the settings of its host, each with the command that mends it."""

from harness.doctor.findings import MISSING, Finding
from harness.doctor.hardware import host_findings, inspect_hardware, link_findings, npu_findings
from harness.doctor.software import software_findings
from harness.messages import message
from harness.telemetry.environment import HostView

_NO_NPU = Finding("NPU", MISSING, message("doctor.no_npu"), message("doctor.no_npu_remedy"))


def examine(host: HostView, python: str) -> list[Finding]:
    """Everything that the doctor checks, from the hardware up; `python` is the engine's interpreter."""
    hardware = inspect_hardware(host)
    findings = list(npu_findings(host, hardware)) if hardware.has_npu else [_NO_NPU]
    findings += software_findings(host, hardware, python)
    findings += link_findings(host, hardware)
    findings += host_findings(host, hardware)
    return findings
