"""What people and Prometheus are shown.

* queries: routes, rollouts, workers and backends as they are now
* decision_history: the decisions of one rollout, from its journal
* metrics: all of /metrics; traffic_, health_, process_ and inspection_metrics are its parts
* families: families of metrics from samples
"""
