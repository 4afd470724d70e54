"""All metrics of the control process at one moment. Imported once control is ready: no start waits for Prometheus."""

from __future__ import annotations

import itertools

from gateway.admin.auth_failures import AuthFailures
from gateway.admin.connections import Connections
from gateway.admin.listener_metrics import listener_metrics
from gateway.control.api import ControlPlane
from gateway.control.show.metrics import Scrape
from gateway.hooks.counters import HookCounters
from gateway.hooks.hook_metrics import hook_metrics


def scrape(control: ControlPlane, hooks: HookCounters, connections: Connections, auth_failures: AuthFailures) -> Scrape:
    """The values of this moment, to be rendered on any thread."""
    return Scrape(control, itertools.chain(hook_metrics(hooks), listener_metrics(connections, auth_failures)))
