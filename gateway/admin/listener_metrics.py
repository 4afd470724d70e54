"""The metrics of the admin listener: its connections, and the requests that were not let in."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from gateway.admin.auth_failures import AuthFailures
from gateway.admin.connections import Connections
from gateway.control.show.families import counter_by, single_gauge


def listener_metrics(connections: Connections, auth_failures: AuthFailures) -> Iterator[Metric]:
    """One family each."""
    yield single_gauge("gateway_admin_connections", "Open connections of the admin listener.", connections.open)
    most = "How many connections the admin listener may have."
    yield single_gauge("gateway_admin_connections_max", most, connections.most)
    yield counter_by(
        "gateway_admin_connections_ended",
        "Connections of the admin listener that it refused or ended, by reason.",
        "reason",
        connections.ended,
    )
    yield counter_by(
        "gateway_admin_auth_failures",
        "Requests to the admin listener that were not let in, by reason.",
        "reason",
        auth_failures.failed,
    )
