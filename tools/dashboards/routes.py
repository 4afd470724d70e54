"""The overview of routes: what users get on each, how much of it the canary answers, and how the rollouts stand."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.parts import board, lines, states
from tools.dashboards.rollout import PHASE_QUERY, PHASES

_R = '{route=~"$route"}'
_RATE = "[$__rate_interval]"


def routes() -> dashboard.Dashboard:
    """All routes, or those that are chosen."""
    made = board("Canary gateway: routes", "canary-gateway", "What users get on each route.", route="many")
    made = made.with_row(dashboard.Row("Users"))
    for panel in (
        lines(
            "Requests",
            "Answers to clients per second, by route.",
            "reqps",
            (f"sum by (route) (rate(gateway_requests_total{_R}{_RATE}))", "{{route}}"),
        ),
        lines(
            "Failed requests",
            "Share of the answers to clients that were 5xx. Rescued failures of a canary are not among them.",
            "percentunit",
            (
                f'(sum by (route) (rate(gateway_requests_total{{route=~"$route", code=~"5.."}}{_RATE}))'
                f" or 0 * sum by (route) (rate(gateway_requests_total{_R}{_RATE})))"
                f" / sum by (route) (rate(gateway_requests_total{_R}{_RATE}))",
                "{{route}}",
            ),
        ),
        lines(
            "Latency",
            "99th percentile from a request's start to its end, by route.",
            "s",
            (
                "histogram_quantile(0.99, sum by (le, route)"
                f" (rate(gateway_request_duration_seconds_bucket{_R}{_RATE})))",
                "{{route}}",
            ),
            exemplars=True,
        ),
        lines(
            "Burn rate of the error budget",
            "1: the budget of the objective lasts just as long as planned. Alerts page at 6 and 14.4.",
            "short",
            (
                f"sum by (route, slo) (rate(gateway_slo_failures_total{_R}{_RATE}))"
                f" / sum by (route, slo) (rate(gateway_slo_requests_total{_R}{_RATE}))"
                f" / (1 - max by (route, slo) (gateway_slo_objective_ratio{_R}))",
                "{{route}} {{slo}}",
            ),
            span=12,
        ),
        lines(
            "Responses by status",
            "Answers to clients per second, by status.",
            "reqps",
            (f"sum by (code) (rate(gateway_requests_total{_R}{_RATE}))", "{{code}}"),
            span=12,
        ),
    ):
        made = made.with_panel(panel)
    made = made.with_row(dashboard.Row("Rollouts"))
    for other in (
        lines(
            "Canary weight",
            "Share of each route's requests that is assigned to the canary.",
            "percentunit",
            (f"max by (route) (gateway_canary_weight_ratio{_R})", "{{route}}"),
        ),
        states("Phase", "Phase of each route's newest rollout.", (PHASE_QUERY, "{{route}}"), names=PHASES),
        lines(
            "Rescues",
            "Failures of canaries per second that stable answered, and those that users saw.",
            "reqps",
            (f"sum by (route) (rate(gateway_rescues_total{_R}{_RATE}))", "{{route}} rescued"),
            (f"sum by (route) (rate(gateway_rescues_denied_total{_R}{_RATE}))", "{{route}} not rescued"),
        ),
    ):
        made = made.with_panel(other)
    return made
