"""Metrics to an OpenTelemetry collector by OTLP over HTTP; extra `otel`.

The address is the collector's, such as http://127.0.0.1:4318; without one the SDK's own variables hold
(OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, ...).
"""

import logging
import os
from collections.abc import Iterable
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource

from harness import __version__
from harness.export.addresses import hold_http
from harness.export.delivery import REQUEST_S
from harness.export.points import Point, Snapshot

_PATH = "/v1/metrics"
_VARIABLES = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SERVICE = "npu-harness"


class OtelExporter:
    """Sends gauges; each message has the newest figures of a run."""

    def __init__(self, address: str | None) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what fails is told in one line of ours
        endpoint = None
        for given in (address, *map(os.environ.get, _VARIABLES)):
            if given:
                hold_http("otel", given)
        if address is not None:
            endpoint = address.rstrip("/") + ("" if urlsplit(address).path.strip("/") else _PATH)
        self._exporter = OTLPMetricExporter(endpoint=endpoint, timeout=REQUEST_S)

    def live(self, snapshot: Snapshot) -> None:
        """See Exporter."""
        self._send(snapshot)

    def result(self, snapshot: Snapshot) -> None:
        """See Exporter."""
        self._send(snapshot)

    def _send(self, snapshot: Snapshot) -> None:
        result = self._exporter.export(metrics_data(snapshot), timeout_millis=REQUEST_S * 1000)
        if result is not MetricExportResult.SUCCESS:
            raise ConnectionError(self._exporter._endpoint)  # noqa: SLF001 - the SDK says nothing else of what failed

    def close(self) -> None:
        """See Exporter."""
        self._exporter.shutdown(timeout_millis=0)


def metrics_data(snapshot: Snapshot) -> MetricsData:
    """A snapshot as the SDK's metrics: its attributes are those of the resource."""
    reader = InMemoryMetricReader()
    resource = Resource({"service.name": SERVICE, "service.version": __version__, **snapshot.attributes})
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    try:
        _record(provider, snapshot.points)
        data = reader.get_metrics_data()
    finally:
        provider.shutdown()
    if data is None:
        return MetricsData(resource_metrics=[])
    return data


def _record(provider: MeterProvider, points: Iterable[Point]) -> None:
    meter = provider.get_meter(SERVICE, __version__)
    gauges = {}
    for point in points:
        metric = point.metric
        if metric.name not in gauges:
            gauges[metric.name] = meter.create_gauge(metric.name, unit=metric.unit)
        gauges[metric.name].set(point.value, dict(point.attributes))
