"""The page shows what NPUs and host did, where it was sampled."""

import reports
from harness.results import store
from harness.results.request_table import samples_from
from harness.units import NS_PER_S
from tests.result_folder import Run, fake_records, fake_samples, make_result, run_json, write_result

RUN = Run(loads=(2.0,), duration_s=15, simulated=False)
VALUES = {
    "watts": 310.0,
    "celsius": 57.0,
    "core_share": 0.81,
    "memory_share": 0.92,
    "memory_bandwidth_share": 0.63,
    "processes": 1.0,
}


def sampled(run, sources):
    """The fake samples of a run, and of each device and the host a reading a second."""
    requests, events, timeline = fake_records(run)
    base = fake_samples(run, requests, timeline)
    rows = list(zip(base.at_ns, base.source, base.name, base.value, strict=True))
    for second in range(16):
        rows += [(second * NS_PER_S, source, name, value) for source in sources for name, value in VALUES.items()]
        rows.append((second * NS_PER_S, "host", "host_cpu_share", 0.4))
    return (requests, events), timeline, samples_from(rows)


def test_npus_and_host_are_drawn_below_the_requests(tmp_path):
    """Load, memory, power of both cards together, heat and the host's CPU, in words as well as in lines."""
    records, timeline, samples = sampled(RUN, ("device-0", "device-1"))
    folder = write_result(tmp_path / "run", run_json(RUN), records, timeline, samples)
    page = reports.write_all(folder).read_text(encoding="utf-8")
    (stage,) = store.read_json(folder, store.SUMMARY)["stages"]

    assert "Requests in their phases, over what the server showed" in page
    assert "power of all NPUs, W: at most 620" in page
    assert "the hottest NPU, °C: at most 57.0" in page
    assert "CPU of the host, % of all cores: at most 40.0" in page
    assert stage["energy"]["mean_watts"] == 620.0
    assert "620 W" in page
    assert f"{stage['energy']['joules_per_output_token']:.2f} J" in page


def test_without_samples_of_devices_nothing_is_drawn(tmp_path):
    """A result of an earlier version, or of a server elsewhere, has no such figure."""
    folder = make_result(tmp_path / "run", RUN)

    assert "What NPUs and host did" not in reports.write_all(folder).read_text(encoding="utf-8")
