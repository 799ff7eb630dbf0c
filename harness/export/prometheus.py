"""Metrics to a Prometheus push gateway; extra `prometheus`.

The address is `host:port` or a URL; without one PROMETHEUS_PUSHGATEWAY_URL holds.
"""

import os
import re

from prometheus_client import CollectorRegistry, Gauge, pushadd_to_gateway

from harness.errors import InputError
from harness.export.addresses import hold_http
from harness.export.delivery import REQUEST_S
from harness.export.points import Point, Snapshot
from harness.messages import message
from harness.safety.redaction import register_password

JOB = "npu_harness"
VARIABLE = "PROMETHEUS_PUSHGATEWAY_URL"
_UNITS = {"s": "seconds", "{request}/s": "requests_per_second", "{token}/s": "tokens_per_second", "{token}": "tokens"}
_OTHER = re.compile(r"[^a-zA-Z0-9_]")


class PushExporter:
    """Pushes gauges under job `npu_harness` and the run's name; what was pushed before of other names stays."""

    def __init__(self, address: str | None) -> None:
        self._gateway = address or os.environ.get(VARIABLE, "")
        if not self._gateway:
            raise InputError(message("export.no_address", target="prometheus-push", variable=VARIABLE))
        register_password(self._gateway)
        hold_http("prometheus-push", self._gateway, bare=True)

    def live(self, snapshot: Snapshot) -> None:
        """See Exporter."""
        self._push(snapshot)

    def result(self, snapshot: Snapshot) -> None:
        """See Exporter."""
        self._push(snapshot)

    def _push(self, snapshot: Snapshot) -> None:
        grouping = {"run": snapshot.name}
        pushadd_to_gateway(self._gateway, JOB, registry_of(snapshot), grouping_key=grouping, timeout=REQUEST_S)

    def close(self) -> None:
        """See Exporter; nothing is open between two pushes."""


def registry_of(snapshot: Snapshot) -> CollectorRegistry:
    """A snapshot as gauges whose labels are the attributes of the run and of each point."""
    registry = CollectorRegistry()
    by_name: dict[str, list[dict[str, str]]] = {}
    values: dict[str, list[float]] = {}
    for point in snapshot.points:
        name = metric_name(point)
        by_name.setdefault(name, []).append(_labels(snapshot, point))
        values.setdefault(name, []).append(point.value)
    for name, rows in by_name.items():
        names = sorted({label for row in rows for label in row})
        gauge = Gauge(name, name, names, registry=registry)
        for row, value in zip(rows, values[name], strict=True):
            gauge.labels(**{label: row.get(label, "") for label in names}).set(value)
    return registry


def metric_name(point: Point) -> str:
    """`gen_ai.client.operation.duration` in seconds is `gen_ai_client_operation_duration_seconds`."""
    unit = _UNITS.get(point.metric.unit)
    return _OTHER.sub("_", point.metric.name) + (f"_{unit}" if unit else "")


def _labels(snapshot: Snapshot, point: Point) -> dict[str, str]:
    pairs = {**snapshot.attributes, **point.attributes}
    return {_OTHER.sub("_", name): _text(value) for name, value in pairs.items()}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
