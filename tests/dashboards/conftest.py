"""Tests of dashboards, rules and queries on a real Prometheus: `.ci/dashboards` runs them.

Without GATEWAY_DASHBOARDS nothing here is collected: the README's test command needs no Prometheus.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if "GATEWAY_DASHBOARDS" in os.environ else ["test_*.py"]
