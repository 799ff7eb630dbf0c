"""Do several cards reach each other, and other hosts?"""

from collections.abc import Iterator

from harness.doctor.findings import MISSING, NOTE, OK, WRONG, Finding
from harness.doctor.machine import Machine
from harness.telemetry.ascend import DRIVER
from harness.telemetry.host_view import Probe


def link_findings(probe: Probe, machine: Machine) -> Iterator[Finding]:
    """The paths between the cards of this host, and each card's own network port; nothing for a single chip."""
    if len(machine.chips) < 2:
        return
    yield from _inside(probe, machine)
    place = f"{DRIVER}/tools/hccn_tool"
    tool = probe.program("hccn_tool", place)
    if tool is None:
        mend = f"docker run -v {place}:{place} -v /etc/hccn.conf:/etc/hccn.conf ..." if machine.contained else ""
        text = "not found, so that the cards' network ports cannot be seen"
        yield Finding("hccn_tool", MISSING, text, mend or "reinstall the driver with --full")
        return
    yield from _ports(probe, tool, machine.numbers or tuple(range(len(machine.chips))))


def _inside(probe: Probe, machine: Machine) -> Iterator[Finding]:
    """`npu-smi info -t topo`: a row a card, how it reaches each of the others."""
    assert machine.npu_smi is not None
    answer = probe.run([machine.npu_smi, "info", "-t", "topo"])
    rows = [line.split() for line in answer.text.splitlines() if line.split()[:1] and line.split()[0].startswith("NPU")]
    cards = [row[1:] for row in rows if not row[1:2] or not row[1].startswith("NPU")]  # the heading names NPUs only
    paths = {word for row in cards for word in row if word.replace("_", "").isalpha() and word != "X"}
    if not paths:
        return
    if paths <= {"HCCS", "SIO", "HCCS_SW"}:
        yield Finding("links", OK, f"all chips of this host reach each other by {' and '.join(sorted(paths))}")
    else:
        text = (
            f"chips of this host reach each other by {', '.join(sorted(paths))}: tensor parallel is slow without HCCS"
        )
        yield Finding("links", NOTE, text, "npu-smi info -t topo")


def _ports(probe: Probe, tool: str, numbers: tuple[int, ...]) -> Iterator[Finding]:
    """Network ports matter between hosts only: all down is a host on its own, one down is a broken one."""
    states = {number: probe.run([tool, "-i", str(number), "-link", "-g"]).text.upper() for number in numbers}
    down = [number for number, said in states.items() if "UP" not in said.replace("DOWN", "")]
    if len(down) == len(numbers):
        yield Finding("ports", NOTE, "no card's network port is up: this host serves on its own")
    elif down:
        text = f"the port of device {', '.join(map(str, down))} is down, those of the others are up"
        yield Finding("ports", WRONG, text, f"{tool} -i {down[0]} -link -g; check its cable, optics and switch")
    else:
        yield Finding("ports", OK, f"the network ports of all {len(numbers)} devices are up")
        yield from _network(probe, tool, numbers)


def _network(probe: Probe, tool: str, numbers: tuple[int, ...]) -> Iterator[Finding]:
    ill = [n for n in numbers if "SUCCESS" not in probe.run([tool, "-i", str(n), "-net_health", "-g"]).text.upper()]
    if ill:
        text = f"device {', '.join(map(str, ill))} does not reach its detection address"
        yield Finding("ports", WRONG, text, f"{tool} -i {ill[0]} -net_health -g; {tool} -i {ill[0]} -gateway -g")
    switches = {_switch(probe.run([tool, "-i", str(number), "-tls", "-g"]).text) for number in numbers} - {""}
    if len(switches) > 1:
        mend = f'for i in {" ".join(map(str, numbers))}; do {tool} -i "$i" -tls -s enable 0; done'
        yield Finding("TLS", WRONG, "switched on at some devices and off at others: they will not connect", mend)


def _switch(text: str) -> str:
    """The value of the line that tells of the TLS switch."""
    told = (line for line in text.lower().splitlines() if "switch" in line)
    return next((line.rpartition("switch")[2].strip(" []:=") for line in told), "")
