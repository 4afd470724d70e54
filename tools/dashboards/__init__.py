"""The Grafana dashboards as code: Grafana's own SDK builds them, and what it writes is checked in.

    python -m tools.dashboards            write config/grafana/dashboards/*.json
    python -m tools.dashboards --check    say which of them is not what would be written

* parts: what panels, queries and variables have in common
* routes, rollout, health: one dashboard each
"""
