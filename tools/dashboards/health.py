"""The gateway itself: instances, workers, endpoints, queues, and what is lost where a limit was reached."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.parts import board, lines, states

_RATE = "[$__rate_interval]"
_UP = {0: ("down", "red"), 1: ("up", "green")}


def health() -> dashboard.Dashboard:
    """All instances that Prometheus scrapes."""
    made = board("Canary gateway: fleet and health", "canary-gateway-health", "Whether the gateways do their work.")
    made = made.with_row(dashboard.Row("Instances"))
    for panel in (
        states(
            "Ready", "Whether each instance is ready.", ("min by (instance) (gateway_ready)", "{{instance}}"), names=_UP
        ),
        states(
            "Decisions can be stored",
            "At 0 no rollout starts or advances; traffic and rollbacks go on.",
            ("min by (instance) (gateway_state_kept)", "{{instance}}"),
            names={0: ("no", "red"), 1: ("yes", "green")},
        ),
        lines(
            "Workers",
            "Connected workers, those that route by the newest table, and starts.",
            "short",
            ("sum by (instance) (gateway_workers)", "{{instance}} connected"),
            ("sum by (instance) (gateway_workers_applied)", "{{instance}} up to date"),
            (f"sum by (instance) (increase(gateway_worker_starts_total{_RATE}))", "{{instance}} starts"),
        ),
        lines(
            "In flight and connections",
            "Requests under way, and open connections to both sides.",
            "short",
            ("sum(gateway_in_flight_requests)", "in flight"),
            ("sum(gateway_downstream_connections)", "clients"),
            ("sum(gateway_upstream_connections)", "endpoints"),
        ),
        lines(
            "Event loop",
            "How late event loops are. Above 0.1 s the machine is short of CPU.",
            "s",
            ("max by (instance) (gateway_event_loop_lag_seconds)", "{{instance}}"),
        ),
        lines(
            "Answers made by the gateway",
            "Errors per second that the gateway answered itself, the five most frequent reasons.",
            "reqps",
            (f"topk(5, sum by (reason) (rate(gateway_errors_total{_RATE})))", "{{reason}}"),
        ),
    ):
        made = made.with_panel(panel)
    made = made.with_row(dashboard.Row("Endpoints"))
    for other in (
        states(
            "Endpoint health",
            "What active probes find.",
            ("min by (backend, endpoint) (gateway_endpoint_up)", "{{backend}} {{endpoint}}"),
            names=_UP,
        ),
        lines(
            "Ejections",
            "Workers that keep an endpoint out of rotation, and ejections by live traffic.",
            "short",
            ("max by (backend, endpoint) (gateway_endpoint_ejected)", "{{endpoint}} out"),
            (f"sum by (backend) (increase(gateway_endpoint_ejections_total{_RATE}))", "{{backend}} ejections"),
        ),
        lines(
            "Retries",
            "Attempts per second that were repeated on another endpoint, and failures that were not.",
            "reqps",
            (f"sum by (reason) (rate(gateway_retries_total{_RATE}))", "{{reason}}"),
            (f"sum by (reason) (rate(gateway_retries_denied_total{_RATE}))", "not retried: {{reason}}"),
        ),
        lines(
            "Time in queue",
            "Attempts per second that had to wait for a connection, and how long 95 % of them waited at most.",
            "s",
            (f"sum by (variant) (rate(gateway_upstream_queue_seconds_count{_RATE}))", "{{variant}} waiting per s"),
            (
                f"histogram_quantile(0.95, sum by (le, variant) (rate(gateway_upstream_queue_seconds_bucket{_RATE})))",
                "{{variant}} p95",
            ),
            span=12,
        ),
        lines(
            "Body sizes",
            "Mean size of request and response bodies.",
            "bytes",
            *(
                (
                    f"sum by (variant) (rate(gateway_{side}_size_bytes_sum{_RATE}))"
                    f" / sum by (variant) (rate(gateway_{side}_size_bytes_count{_RATE}))",
                    f"{{{{variant}}}} {side}",
                )
                for side in ("request", "response")
            ),
            span=12,
        ),
    ):
        made = made.with_panel(other)
    made = made.with_row(dashboard.Row("What was lost"))
    for last in (
        lines(
            "Dropped",
            "Per second: lines of the access log, spans and samples that were dropped. Requests are not affected.",
            "ops",
            (f"sum(rate(gateway_access_log_dropped_total{_RATE}))", "log lines"),
            (f'sum by (result) (rate(gateway_spans_total{{result!="exported"}}{_RATE}))', "spans {{result}}"),
            (f'sum(rate(gateway_samples_total{{result="dropped"}}{_RATE}))', "samples"),
        ),
        lines(
            "Restarts and reloads",
            "Child processes that were started again, and refused configurations.",
            "short",
            (f"sum by (child, reason) (increase(gateway_child_restarts_total{_RATE}))", "{{child}} {{reason}}"),
            ("max by (instance) (gateway_config_last_reload_failed)", "{{instance}} refused the last reload"),
        ),
        lines(
            "Admin listener",
            "Open connections, and refused requests per second.",
            "short",
            ("sum(gateway_admin_connections)", "connections"),
            (f"sum by (reason) (rate(gateway_admin_auth_failures_total{_RATE}))", "refused: {{reason}}"),
        ),
    ):
        made = made.with_panel(last)
    return made
