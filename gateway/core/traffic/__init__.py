"""Which backend a request goes to: the immutable routing table and the split."""

from __future__ import annotations

from gateway.core.traffic.router import Router
from gateway.core.traffic.split import bucket_of_key, variant_for
from gateway.core.traffic.table import Backend, Endpoint, Rescue, Route, RoutingTable, Sticky, Timeouts

__all__ = [
    "Backend",
    "Endpoint",
    "Rescue",
    "Route",
    "Router",
    "RoutingTable",
    "Sticky",
    "Timeouts",
    "bucket_of_key",
    "variant_for",
]
