"""One rollout: where it stands, what the evidence says, how large the differences are, both versions side by side."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.parts import SOURCE, board, lines, states

_R = '{route="$route"}'
_RATE = "[$__rate_interval]"
PHASES = {
    1: ("warming", "light-blue"),
    2: ("waiting", "yellow"),
    3: ("progressing", "blue"),
    4: ("paused", "orange"),
    5: ("baking", "purple"),
    6: ("returning", "dark-orange"),
    7: ("promoted", "green"),
    8: ("rolled back", "red"),
    9: ("withdrawn", "text"),
}


def _phase(word: str) -> str:
    return word.upper().replace(" ", "_")


PHASE_QUERY = " + ignoring(phase) ".join(
    f'{number} * max by (route, phase) (gateway_rollout_phase{{route=~"$route", phase="{_phase(word)}"}})'
    for number, (word, _) in PHASES.items()
)


def rollout() -> dashboard.Dashboard:
    """The newest rollout of the route that is chosen."""
    made = board("Canary gateway: one rollout", "canary-gateway-rollout", "Why a version is kept or not.", route="one")
    changes = dashboard.AnnotationQuery().name("Decisions").datasource(SOURCE).enable(enable=True).icon_color("purple")
    made = made.annotation(changes.expr('changes(gateway_rollout_step{route="$route"}[15s]) > 0'))
    ends = dashboard.AnnotationQuery().name("Ends").datasource(SOURCE).enable(enable=True).icon_color("red")
    ended = 'gateway_rollout_phase{route="$route", phase=~"PROMOTED|ROLLED_BACK"}'
    made = made.annotation(ends.expr(f"{ended} == 1 unless {ended} offset 15s == 1"))
    made = made.with_row(dashboard.Row("Where it stands"))
    for panel in (
        states("Phase", "Phase of the rollout.", (PHASE_QUERY, "{{route}}"), names=PHASES),
        lines(
            "Weight and step",
            "Share of the requests that is assigned to the canary, and the step of the plan.",
            "percentunit",
            (f"max(gateway_canary_weight_ratio{_R})", "canary's share"),
        ),
        lines(
            "Verdicts",
            "Analyses per second by verdict. Only PASS advances, only FAIL rolls back.",
            "ops",
            (f"sum by (verdict) (rate(gateway_verdicts_total{_R}{_RATE}))", "{{verdict}}"),
        ),
    ):
        made = made.with_panel(panel)
    made = made.with_row(dashboard.Row("Evidence"))
    for panel in (
        lines(
            "Evidence that the canary is worse",
            "If the canary were not worse, evidence like this would come up at most so often. Below the line it is "
            "rolled back.",
            "percentunit",
            ('min by (metric) (gateway_evidence_probability{route="$route", test="bad"})', "{{metric}}"),
            ('min(gateway_evidence_joint_probability{route="$route", test="bad"})', "all together"),
            ('min(gateway_evidence_needed_probability{route="$route", test="bad"})', "rolled back at"),
            span=12,
            log=True,
        ),
        lines(
            "Evidence that the canary is good enough",
            "If the canary were worse by the margin, evidence like this would come up at most so often. The rollout "
            "advances when every deciding metric is below the line.",
            "percentunit",
            ('min by (metric) (gateway_evidence_probability{route="$route", test="ok"})', "{{metric}}"),
            ('min(gateway_evidence_joint_probability{route="$route", test="ok"})', "the least of them"),
            ('min(gateway_evidence_needed_probability{route="$route", test="ok"})', "advances at"),
            span=12,
            log=True,
        ),
        lines(
            "Effect on errors",
            "Canary's share of errors minus stable's, with the bounds that hold at every moment (95 %).",
            "percentunit",
            (_effect("errors", "high"), "high"),
            (_effect("errors", "estimate"), "difference"),
            (_effect("errors", "low"), "low"),
            span=12,
            band=("low", "high"),
        ),
        lines(
            "Latency's quantiles in the evidence",
            "What the verdict on latency is about: both versions' quantiles since the rollout began.",
            "s",
            (
                'max by (variant, percentile) (gateway_latency_quantile_seconds{route="$route", metric="latency",'
                ' bound="estimate"})',
                "{{variant}} p{{percentile}}",
            ),
            span=12,
        ),
        lines(
            "Effects of all metrics",
            "Canary's share of each metric's event minus stable's.",
            "percentunit",
            ('max by (metric) (gateway_effect_difference{route="$route", bound="estimate"})', "{{metric}}"),
            span=12,
        ),
        lines(
            "Answers and predictions",
            "Share of the requests with each event, in both versions: classes of predictions, failures inside answers.",
            "percentunit",
            (f"max by (metric, variant) (gateway_finding_ratio{_R})", "{{variant}} {{metric}}"),
            span=12,
        ),
    ):
        made = made.with_panel(panel)
    return _versions(made)


def _effect(metric: str, bound: str) -> str:
    return f'max(gateway_effect_difference{{route="$route", metric="{metric}", bound="{bound}"}})'


def _versions(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """Both versions side by side: rate, errors, duration."""
    attempts = "gateway_upstream_tries_total"
    made = made.with_row(dashboard.Row("Both versions"))
    for panel in (
        lines(
            "Requests by variant",
            "Attempts per second on each version.",
            "reqps",
            (f"sum by (variant) (rate({attempts}{_R}{_RATE}))", "{{variant}}"),
        ),
        lines(
            "Failed attempts by variant",
            "Share of the attempts on each version that failed, before any rescue.",
            "percentunit",
            (
                f'sum by (variant) (rate({attempts}{{route="$route", result=~"errors|overload"}}{_RATE}))'
                f' / sum by (variant) (rate({attempts}{{route="$route", result!~"abandoned|stale|trial"}}{_RATE}))',
                "{{variant}}",
            ),
        ),
        lines(
            "Failures by class",
            "Attempts per second that were not ok, by version and outcome class.",
            "reqps",
            (
                f'sum by (variant, result) (rate({attempts}{{route="$route", result!="ok"}}{_RATE}))',
                "{{variant}} {{result}}",
            ),
        ),
        lines(
            "First byte by variant",
            "Median and 99th percentile from dispatch to the first byte.",
            "s",
            *(
                (
                    f"histogram_quantile({q}, sum by (le, variant)"
                    f" (rate(gateway_upstream_first_byte_seconds_bucket{_R}{_RATE})))",
                    f"{{{{variant}}}} p{100 * q:g}",
                )
                for q in (0.5, 0.99)
            ),
        ),
        lines(
            "Duration by variant",
            "99th percentile from a request's start to the end of the attempt.",
            "s",
            (
                "histogram_quantile(0.99, sum by (le, variant)"
                f" (rate(gateway_request_duration_seconds_bucket{_R}{_RATE})))",
                "{{variant}}",
            ),
            exemplars=True,
        ),
        lines(
            "Tokens",
            "Tokens per second by version, as the answers' usage gives them: of language models only.",
            "short",
            (f"sum by (variant, type) (rate(gateway_tokens_total{_R}{_RATE}))", "{{variant}} {{type}}"),
        ),
        lines(
            "Rescues",
            "Failures of the canary per second that stable answered, and those that users saw.",
            "reqps",
            (f"sum(rate(gateway_rescues_total{_R}{_RATE}))", "rescued"),
            (f"sum(rate(gateway_rescues_denied_total{_R}{_RATE}))", "not rescued"),
        ),
    ):
        made = made.with_panel(panel)
    return made
