"""All forms of npu-smi's output are read, whatever its version and chip."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.telemetry.npu_smi import (
    MIB,
    NpuProcess,
    field_values,
    parse_fields,
    parse_info,
    source_of,
    watch_columns,
    watch_reading,
)

DATA = Path(__file__).parent.parent / "data" / "npu_smi"


def recorded(name):
    """Text that npu-smi printed."""
    return (DATA / f"{name}.txt").read_text(encoding="utf-8")


def watched(name):
    """All readings of a recorded `npu-smi info watch`."""
    columns, found = None, []
    for line in recorded(name).splitlines():
        columns = watch_columns(line) or columns
        found.append(watch_reading(columns, line))
    return [reading for reading in found if reading is not None]


@pytest.mark.parametrize(
    ("name", "version", "chips"),
    [
        ("info_910b3", "24.1.rc3", [("device-0", "910B3", 97.5, 3379), ("device-1", "910B3", 312.4, 57784)]),
        (
            "info_a3",
            "25.5.0",
            [
                ("device-0", "Ascend910", 178.8, 3397),
                ("device-0.1", "Ascend910", None, 3186),
                ("device-1", "Ascend910", 171.2, 3391),
                ("device-1.1", "Ascend910", None, 3190),
            ],
        ),
        (
            "info_26_wide",
            "26.0.rc2",
            [("device-0", "Ascend910", 162.6, 3419), ("device-0.1", "Ascend910", None, 2874)],
        ),
        ("info_310p", "25.2.0", [("device-2", "310P3", None, 1529), ("device-2.1", "310P3", None, 1412)]),
        ("info_950", "26.0.0", [("device-0", "Ascend950PR", 290.4, 30931)]),
    ],
)
def test_chips_are_found_in_every_table(name, version, chips):
    """One and two chips a card, wide and narrow columns, glued pairs, no HBM column, power as `-` and `NA`."""
    table = parse_info(recorded(name))

    assert table.version == version
    assert [(c.source, c.name, c.watts, c.memory_bytes // MIB) for c in table.chips] == chips


def test_a_chip_carries_health_temperature_load_and_memory():
    """All cells of both lines of a chip are read, per cent as shares and MB as bytes."""
    busy = parse_info(recorded("info_910b3")).chips[1]
    ill = parse_info(recorded("info_26_wide")).chips[1]

    assert (busy.health, busy.celsius, busy.core_share) == ("OK", 58.0, 0.87)
    assert busy.memory_total_bytes == 64 * 2**30
    assert ill.health == "Warning"


def test_processes_are_told_with_card_and_chip():
    """Rows with a chip and, on newer cards, without one; a line that says that none runs is no process."""
    old, new = parse_info(recorded("info_910b3")), parse_info(recorded("info_950"))

    assert old.processes == (NpuProcess(1, 0, 3428811, "python3.10", 54412 * MIB),)
    assert new.processes == (NpuProcess(0, None, 2018733, "VLLMWorker_TP", 30212 * MIB),)
    assert old.processes_on(old.chips[0]) == ()
    assert new.processes_on(new.chips[0]) == new.processes
    assert len(parse_info(recorded("info_26_wide")).processes) == 2


@given(st.text(alphabet=st.sampled_from("| +-=0123456789/ANPUChipOKProcess id\n"), max_size=400))
def test_no_text_breaks_the_parser(text):
    """Whatever is printed, the answer is a table, fields and readings, perhaps empty ones."""
    columns = watch_columns("NpuID(Idx)  AI Core(%)")
    assert columns is not None

    assert parse_info(text).chips is not None
    assert all(field_values(block) is not None for block in parse_fields(text))
    assert all(watch_reading(columns, line) is None or line.split() for line in text.splitlines())


def test_a_cut_table_loses_only_the_chip_that_was_cut():
    """Where the output ends within a chip, those before it are there."""
    cut = "\n".join(recorded("info_910b3").splitlines()[:10])

    assert [chip.npu for chip in parse_info(cut).chips] == [0]


def test_watch_rows_are_read_by_the_names_of_their_columns():
    """Of the older layout; a repeated heading is no row, and a cell without a number is left out."""
    rows = watched("watch_910b")

    assert [row.source for row in rows] == ["device-0", "device-1", "device-0", "device-1"]
    assert rows[0].values == pytest.approx(
        {
            "watts": 161.7,
            "celsius": 43,
            "core_share": 0.17,
            "ai_cpu_share": 0.0,
            "control_cpu_share": 0.05,
            "memory_share": 0.95,
            "memory_bandwidth_share": 0.14,
        }
    )
    assert "watts" not in rows[3].values


def test_newer_watch_rows_have_no_chip_and_two_more_columns():
    """The layout without ChipId and with NPU Util and AI Cube."""
    values = watched("watch_950")[1].values

    assert (values["watts"], values["npu_share"], values["cube_share"]) == pytest.approx((292.1, 0.70, 0.55))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("watch_core_only", [("device-0", 0.42), ("device-0.1", 0.99)]),
        ("watch_core_only_950", [("device-0", 0.07)]),
    ],
)
def test_watching_one_type_gives_that_type(name, found):
    """`-s a` prints the AI Core alone, with or without the chip."""
    assert [(row.source, row.values["core_share"]) for row in watched(name)] == [
        (source, pytest.approx(share)) for source, share in found
    ]


def test_a_row_that_does_not_fit_its_heading_is_dropped():
    """Too few cells, too many, and words in the place of a card."""
    columns = watch_columns("NpuID(Idx)  ChipId(Idx) AI Core(%)")

    assert [watch_reading(columns, line) for line in ("0 0", "0 0 1 2", "a 0 1", "")] == [None] * 4


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "usages_910b",
            [
                {
                    "memory_total_bytes": 64 * 2**30,
                    "memory_share": 0.03,
                    "core_share": 0.5,
                    "vector_share": 0.12,
                    "ai_cpu_share": 0.0,
                    "control_cpu_share": 0.09,
                    "memory_bandwidth_share": 0.21,
                }
            ],
        ),
        (
            "usages_old_driver",
            [
                {
                    "memory_total_bytes": 21534 * MIB,
                    "memory_share": 0.04,
                    "core_share": 0.0,
                    "memory_bandwidth_share": 0.51,
                }
            ],
        ),
        (
            "common_910b1",
            [
                {
                    "memory_share": 0.05,
                    "core_share": 0.0,
                    "core_limit_hz": 1.85e9,
                    "core_hz": 0.8e9,
                    "celsius": 42.0,
                    "watts": 91.9,
                }
            ],
        ),
        ("power_910b", [{"watts": 97.5}]),
        ("temp_910b", [{"celsius": 41.0}]),
        ("memory_910b", [{"memory_total_bytes": 64 * 2**30}]),
    ],
)
def test_fields_become_numbers_with_units(name, values):
    """Usages of a new and an old driver, common, power, temperature and memory."""
    blocks = [field_values(block) for block in parse_fields(recorded(name))]

    assert [block for block in blocks if block] == [pytest.approx(one) for one in values]


def test_each_chip_of_a_card_has_fields_of_its_own():
    """A key that comes again belongs to the next chip."""
    blocks = parse_fields(recorded("usages_a3"))

    assert [(block["Chip ID"], field_values(block)["core_share"]) for block in blocks] == [
        ("0", pytest.approx(0.71)),
        ("1", pytest.approx(0.69)),
    ]


def test_the_first_chip_of_a_card_has_the_cards_name():
    """A card with one chip is its number; further chips are told apart."""
    assert [source_of(3, 0), source_of(3, 1)] == ["device-3", "device-3.1"]
