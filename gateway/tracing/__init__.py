"""Traces: the process that makes OpenTelemetry spans of what workers record, and exports them (OTLP over HTTP).

* otlp: a record as spans, by OpenTelemetry's semantic conventions for HTTP
* exporter: the process; workers connect to it, and wait for nothing of it

Needs the extra ``otel``.
"""
