"""Metrics reach an OTLP/HTTP receiver, which reads them with the protocol's own messages."""

import gzip

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from harness.export.delivery import exporter_of
from tests.contracts.exporter import check_exporter, check_needs_nobody, collector, nobody, result
from tests.export.test_delivery import told_by

__all__ = ["nobody"]  # a fixture


@pytest.fixture
def receiver():
    """The address of a collector, and what it has heard."""
    with collector(lambda _path: (200, b"")) as (address, heard):
        yield address, heard


def messages(heard):
    """Every message, decoded."""
    for path, headers, body in heard:
        assert path == "/v1/metrics"
        text = gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
        yield ExportMetricsServiceRequest.FromString(text)


def gauges(heard):
    """(resource attributes, metric, point) of every number of every message."""
    for message in messages(heard):
        for resource in message.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.gauge.data_points:
                        yield resource.resource.attributes, metric, point


def received(heard):
    """Values and attributes."""
    rows = list(gauges(heard))
    marks = [pair.value for attributes, _, point in rows for pair in (*attributes, *point.attributes)]
    texts = [getattr(mark, mark.WhichOneof("value")) for mark in marks]
    return [point.as_double for _, _, point in rows], texts


def test_a_receiver_gets_every_number(receiver):
    """Live figures, then the result, with names, units and attributes."""
    address, heard = receiver
    check_exporter(f"otel={address}", lambda: received(heard))
    rows = list(gauges(heard))
    usage = [(metric, point) for _, metric, point in rows if metric.name == "gen_ai.client.token.usage"]

    assert {metric.unit for metric, _ in usage} == {"{token}"}
    kinds = {
        pair.value.string_value for _, point in usage for pair in point.attributes if pair.key == "gen_ai.token.type"
    }
    assert kinds == {"input", "output"}
    assert {pair.value.bool_value for pairs, _, _ in rows for pair in pairs if pair.key == "npu_harness.simulated"} == {
        True
    }


def test_the_standard_variables_name_the_collector(receiver, monkeypatch):
    """Without an address those of the SDK hold; secrets of its headers go to the collector alone."""
    address, heard = receiver
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret-of-ours")
    _, exporter = exporter_of("otel")
    exporter.result(result())
    exporter.close()

    assert heard[0][1]["authorization"] == "Bearer secret-of-ours"
    assert not any("secret" in str(mark) for mark in received(heard)[1])


def test_a_collector_that_refuses_is_one_line(capfd):
    """Its status, however much is sent; the SDK's own log stays silent."""
    with collector(lambda _path: (400, b"no")) as (address, _):
        lines = told_by(f"otel={address}")

    assert len(lines) == 1
    assert str(lines[0]).startswith("--export otel: ConnectionError: ")
    assert capfd.readouterr().err == ""


def test_nobody_listens(nobody):
    """One line, and the run goes on."""
    check_needs_nobody(f"otel=http://{nobody}", told_by)


def test_a_password_of_the_address_is_not_told():
    """In the line of a fault it stands as a name."""
    with collector(lambda _path: (400, b"")) as (address, _):
        lines = told_by(f"otel={address.replace('//', '//me:pass-word-1234@')}")

    assert len(lines) == 1
    assert "pass-word" not in str(lines[0])
