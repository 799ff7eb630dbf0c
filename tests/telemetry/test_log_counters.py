"""What engines only log is counted as it comes, and nothing of it twice."""

import pytest

from harness.telemetry.log_counters import EP_IMBALANCE, TRANSFER_BYTES, TRANSFER_SECONDS, TRANSFERS, LogCounters

# As vllm-ascend 0.23 (mooncake_connector.py, eplb_worker.py) and vLLM 0.32 (kv_connector/v1/metrics.py, eplb_state.py)
# print them.
ASCEND = (
    "(Worker_DP1_TP0 pid=77) INFO 11-29 10:00:00 [mooncake_connector.py:973] KV cache transfer for request cmpl-1-0 "
    "took 12.50 ms. local_ip 10.0.0.1 local_device_id 0 remote_session_id 10.0.0.2:2000\n"
)
VLLM = (
    "(APIServer pid=9) INFO 11-29 10:00:10 [metrics.py:103] KV Transfer metrics: Num successful transfers=4, Avg xfer "
    "time (ms)=2.5, P90 xfer time (ms)=3.1, Avg MB per transfer=8.0, Throughput (MB/s)=3200.0, Avg number of "
    "descriptors=64.0, Num failed transfers=0\n"
)
EPLB = (
    "(Worker_DP0_EP0 pid=7) INFO 11-29 10:00:10 [eplb_state.py:545] EPLB step: 3000 for model m: avg_tokens=10.00, "
    "max_tokens=20, balancedness=0.5000, steps until the next rearrangement: 10\n"
)
HOTNESS = (
    "(Worker_DP0_EP0 pid=7) INFO 11-29 10:00:11 [eplb_worker.py:94] [eplb/worker] Expert hotness imbalance, current: "
    "mean=1.310 max=2.500, updated: mean=1.050 max=1.200\n"
)


@pytest.fixture
def log(tmp_path):
    """The log of an engine that has served before the run."""
    path = tmp_path / "engine.log"
    path.write_text(ASCEND)
    return path


def write(log, text):
    """Log more."""
    with log.open("a") as file:
        file.write(text)


def test_transfers_are_counted_by_rank_from_the_begin_of_the_run(log):
    """What was logged before is not counted; a line that is half written is counted once, when it is whole."""
    counters = LogCounters(log)
    write(log, ASCEND + ASCEND[:60])
    first = counters.read()
    write(log, ASCEND[60:] + ASCEND.replace("_DP1_", "_DP0_"))

    assert first == {"1": {TRANSFERS: 1, TRANSFER_SECONDS: 0.0125}}
    assert counters.read() == {
        "0": {TRANSFERS: 1, TRANSFER_SECONDS: 0.0125},
        "1": {TRANSFERS: 2, TRANSFER_SECONDS: 0.025},
    }
    assert counters.read() == {}


def test_what_a_connector_moved_in_ten_seconds_is_one_line(log):
    """Its averages times its count are time and bytes; a line of no transfers adds nothing."""
    counters = LogCounters(log)
    write(log, VLLM + VLLM.replace("transfers=4", "transfers=0"))

    assert counters.read() == {"": {TRANSFERS: 4, TRANSFER_SECONDS: 0.01, TRANSFER_BYTES: 32 * 2**20}}


@pytest.mark.parametrize(("line", "imbalance"), [(EPLB, 2.0), (HOTNESS, 1.31)])
def test_the_imbalance_of_experts_is_the_last_that_was_logged(log, line, imbalance):
    """The busiest rank over the mean, which vLLM logs the other way round."""
    counters = LogCounters(log)
    write(log, line.replace("0.5000", "0.9000").replace("1.310", "1.100") + line)

    assert counters.read() == {"0": {EP_IMBALANCE: imbalance}}


def test_an_odd_log_is_no_fault(log, tmp_path):
    """No log, one that is cut, bytes that are no text, numbers that are none, and more at once than is read."""
    missing, cut, counters = LogCounters(tmp_path / "none.log"), LogCounters(log), LogCounters(log)
    odd = ASCEND.replace("12.50", "1.2.3") + EPLB.replace("0.5000", "0.0000") + "\xff(Worker_DPx pid=1)\n"
    log.write_bytes(log.read_bytes() + odd.encode("latin-1") + b"x" * (3 << 20) + b"\n" + ASCEND.encode())

    assert missing.read() == {}
    assert counters.read() == {"1": {TRANSFERS: 1, TRANSFER_SECONDS: 0.0125}}
    log.write_text("")
    assert cut.read() == {}
