"""npu-smi's output in numbers with units.

Pure: its printed text becomes frozen values. Three forms: the table of `npu-smi info`, the rows
of `npu-smi info watch`, and the `key : value` lines of `npu-smi info -t TYPE`. Columns have
moved between versions and chips, so that cells are found by their borders, columns by their
names, and pairs such as `57784/ 65536` by their slash; never by position in the line. What
npu-smi calls MB is 2**20 bytes: a 64 GiB card shows 65536.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MIB = 1 << 20
PERCENT = 0.01
MHZ = 1e6

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class NpuChip:
    """One chip of the table; what npu-smi shows as `-` or `NA` is None, shares are of one.

    The two chips of an A3 card share the power that is shown at the first.
    """

    npu: int
    chip: int
    name: str
    health: str
    watts: float | None
    celsius: float | None
    core_share: float | None
    memory_bytes: int
    memory_total_bytes: int

    @property
    def source(self) -> str:
        """Its name in samples."""
        return source_of(self.npu, self.chip)


@dataclass(frozen=True, slots=True)
class NpuProcess:
    """A process that holds memory of a chip; `chip` is None where npu-smi does not say which."""

    npu: int
    chip: int | None
    pid: int
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class NpuTable:
    """What `npu-smi info` shows: its version, the chips, and the processes on them."""

    version: str
    chips: tuple[NpuChip, ...]
    processes: tuple[NpuProcess, ...]

    def processes_on(self, chip: NpuChip) -> tuple[NpuProcess, ...]:
        """The processes on a chip."""
        return tuple(row for row in self.processes if row.npu == chip.npu and row.chip in (None, chip.chip))


def source_of(npu: int, chip: int) -> str:
    """`device-2`, or `device-2.1` for the second chip of a card."""
    return f"device-{npu}.{chip}" if chip else f"device-{npu}"


_VERSION = re.compile(r"npu-smi\s+\S+\s+Version:\s*(\S+)")
_PAIR = re.compile(r"(\d+)\s*/\s*(\d+)")
_UPPER = re.compile(r"(\d+)\s+(\S.*)")
_LOWER = re.compile(r"(\d+)(?:\s+\d+)?")


def parse_info(text: str) -> NpuTable:
    """The table of `npu-smi info`; without chips where the text is none."""
    version = _VERSION.search(text)
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if line.strip().startswith("|")
    ]
    cut = next((place for place, cells in enumerate(rows) if "Process id" in " ".join(cells)), len(rows))
    processes = _processes(rows[cut + 1 :], several="Chip" in rows[cut][0]) if cut < len(rows) else iter(())
    return NpuTable(version.group(1) if version else "", tuple(_chips(rows[:cut])), tuple(processes))


def _chips(rows: list[list[str]]) -> Iterator[NpuChip]:
    """A chip has two lines, the upper of which names it."""
    upper: list[str] | None = None
    for cells in rows:
        if len(cells) != 3 or not cells[0][:1].isdigit():
            upper = None
        elif upper is None:
            upper = cells
        else:
            chip = _chip(upper, cells)
            upper = None
            if chip is not None:
                yield chip


def _chip(upper: list[str], lower: list[str]) -> NpuChip | None:
    named, placed = _UPPER.fullmatch(upper[0]), _LOWER.fullmatch(lower[0])
    if named is None or placed is None:
        return None
    heat, load = upper[2].split(), lower[2].split()
    pairs = [(int(used), int(total)) for used, total in _PAIR.findall(lower[2])]
    used, total = next((pair for pair in reversed(pairs) if pair[1]), (0, 0))
    core = _number(load[0]) if load else None
    return NpuChip(
        npu=int(named.group(1)),
        chip=int(placed.group(1)),
        name=named.group(2).strip(),
        health=upper[1],
        watts=_number(heat[0]) if heat else None,
        celsius=_number(heat[1]) if len(heat) > 1 else None,
        core_share=None if core is None else core * PERCENT,
        memory_bytes=used * MIB,
        memory_total_bytes=total * MIB,
    )


def _processes(rows: list[list[str]], *, several: bool) -> Iterator[NpuProcess]:
    """Rows of the process table; its first cell is a card, or a card and its chip."""
    for cells in rows:
        place = cells[0].split()
        if len(cells) == 4 and place and all(word.isdigit() for word in (*place, cells[1], cells[3])):
            chip = int(place[1]) if several and len(place) > 1 else None
            yield NpuProcess(int(place[0]), chip, int(cells[1]), cells[2], int(cells[3]) * MIB)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# Column names of `npu-smi info watch`, folded: our name, and how much one unit of theirs is.
_WATCHED: Mapping[str, tuple[str, float]] = {
    "pwr": ("watts", 1.0),
    "temp": ("celsius", 1.0),
    "ai core": ("core_share", PERCENT),
    "ai cpu": ("ai_cpu_share", PERCENT),
    "ctrl cpu": ("control_cpu_share", PERCENT),
    "memory": ("memory_share", PERCENT),
    "memory bw": ("memory_bandwidth_share", PERCENT),
    "npu util": ("npu_share", PERCENT),
    "ai cube": ("cube_share", PERCENT),
}
_COLUMN = re.compile(r"([A-Za-z][A-Za-z ]*)\([^)]*\)")


@dataclass(frozen=True, slots=True)
class NpuReading:
    """One row of `npu-smi info watch`: values of one chip."""

    source: str
    values: Values


def watch_columns(line: str) -> tuple[str, ...] | None:
    """The folded column names of a heading of `npu-smi info watch`; None where the line is none."""
    names = tuple(name.strip().lower() for name in _COLUMN.findall(line))
    return names if names[:1] == ("npuid",) else None


def watch_reading(columns: tuple[str, ...], line: str) -> NpuReading | None:
    """A row under these columns; None where it does not fit them. Cells without a number are left out."""
    cells = dict(zip(columns, line.split(), strict=False))
    npu, chip = cells.get("npuid", ""), cells.get("chipid", "0")
    if len(line.split()) != len(columns) or not (npu.isdigit() and chip.isdigit()):
        return None
    numbers = ((name, _number(cell)) for name, cell in cells.items() if name in _WATCHED)
    values = {_WATCHED[name][0]: number * _WATCHED[name][1] for name, number in numbers if number is not None}
    return NpuReading(source_of(int(npu), int(chip)), values)


# Keys of `npu-smi info -t usages`, `memory`, `power`, `temp` and `common`, folded and without their unit.
_FIELDS: Mapping[str, tuple[str, float]] = {
    "hbm capacity": ("memory_total_bytes", MIB),
    "memory capacity": ("memory_total_bytes", MIB),
    "hbm usage rate": ("memory_share", PERCENT),
    "memory usage rate": ("memory_share", PERCENT),
    "aicore usage rate": ("core_share", PERCENT),
    "aivector usage rate": ("vector_share", PERCENT),
    "aicube usage rate": ("cube_share", PERCENT),
    "aicpu usage rate": ("ai_cpu_share", PERCENT),
    "ctrlcpu usage rate": ("control_cpu_share", PERCENT),
    "hbm bandwidth usage rate": ("memory_bandwidth_share", PERCENT),
    "memory bandwidth usage rate": ("memory_bandwidth_share", PERCENT),
    "npu utilization": ("npu_share", PERCENT),
    "npu real-time power": ("watts", 1.0),
    "power dissipation": ("watts", 1.0),
    "temperature": ("celsius", 1.0),
    "npu temperature": ("celsius", 1.0),
    "aicore freq": ("core_limit_hz", MHZ),
    "aicore curfreq": ("core_hz", MHZ),
}
_FIELD = re.compile(r"\s*([^:]+?)\s*:\s*(.*?)\s*")
_UNIT = re.compile(r"\s*\([^)]*\)$")


def parse_fields(text: str) -> tuple[Mapping[str, str], ...]:
    """The `key : value` lines of `npu-smi info -t TYPE`, one mapping a chip; a key that comes again starts the next."""
    blocks: list[dict[str, str]] = []
    for line in text.splitlines():
        match = _FIELD.fullmatch(line)
        if match is None:
            continue
        key, value = match.groups()
        if not blocks or key in blocks[-1]:
            blocks.append({})
        blocks[-1][key] = value
    return tuple(blocks)


def field_values(block: Mapping[str, str]) -> Values:
    """The numbers of a chip's fields by our names: bytes, watts, Celsius, hertz, shares."""
    folded = ((_UNIT.sub("", key).lower(), _number(value)) for key, value in block.items())
    known = ((_FIELDS[key], number) for key, number in folded if key in _FIELDS and number is not None)
    return {name: number * size for (name, size), number in known}
