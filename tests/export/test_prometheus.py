"""Metrics reach a push gateway, which reads them with the parser of prometheus_client."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.errors import InputError
from harness.export.delivery import exporter_of
from tests.contracts.exporter import check_exporter, check_needs_nobody, collector, nobody
from tests.export.test_delivery import told_by

__all__ = ["nobody"]  # a fixture


def samples(heard):
    """Every sample that was pushed."""
    return [
        sample
        for _, _, body in heard
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    ]


def received(heard):
    """Values and labels; the run is a part of the path."""
    pushed = samples(heard)
    marks = [text for sample in pushed for text in sample.labels.values()]
    return [sample.value for sample in pushed], marks


def test_a_gateway_gets_every_number():
    """Under the job and the run's name, with units in the names and attributes as labels."""
    with collector(lambda _path: (202, b"")) as (address, heard):
        check_exporter(f"prometheus-push={address.removeprefix('http://')}", lambda: received(heard))
    usage = [sample for sample in samples(heard) if sample.name == "gen_ai_client_token_usage_tokens"]

    assert {path for path, _, _ in heard} == {"/metrics/job/npu_harness/run/made"}
    assert {sample.labels["gen_ai_token_type"]: sample.value for sample in usage} == {"input": 1200.0, "output": 340.0}
    assert {sample.labels["npu_harness_simulated"] for sample in usage} == {"true"}


def test_nobody_listens(nobody):
    """One line, and the run goes on."""
    check_needs_nobody(f"prometheus-push={nobody}", told_by)


def test_an_address_is_needed(monkeypatch):
    """Behind the name, or in the variable."""
    monkeypatch.delenv("PROMETHEUS_PUSHGATEWAY_URL", raising=False)
    with pytest.raises(
        InputError, match="no address; expected --export prometheus-push=ADDRESS, or PROMETHEUS_PUSHGATEWAY_URL"
    ):
        exporter_of("prometheus-push")
    monkeypatch.setenv("PROMETHEUS_PUSHGATEWAY_URL", "127.0.0.1:9091")

    assert exporter_of("prometheus-push")[0] == "prometheus-push"
