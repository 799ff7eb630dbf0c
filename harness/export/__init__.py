"""Results and live figures where a team already looks: OpenTelemetry, MLflow, a Prometheus push gateway.

`points` makes metrics of a result, a study or a run under way, `delivery` hands them to targets without ever holding up
a run, and each target has a module.
"""
