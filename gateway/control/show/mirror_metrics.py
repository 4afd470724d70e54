"""The metrics of mirroring: copies of stable's requests for the canary, those that were not made, and the pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.metrics_core import Metric

from gateway.control.show.families import counter, with_zeros
from gateway.core.stats.outcomes import NAMES, OK
from gateway.core.stats.pairs import CANARY_ONLY, COMPARED, DISAGREED, PAIRS, STABLE_ONLY, UNREAD
from gateway.core.types import Variant
from gateway.runtime.wire import RouteTotals

# Of proxy/routes/route_mirror.py, which this plane may not import; a test compares them.
SHED: Final = (
    *("body_not_kept", "body_too_large", "canary_busy", "concurrency", "draining", "late_loop", "memory"),
    *("no_endpoint", "stable_busy"),
)
NOT_JUDGED: Final = ("client_left", "cut", "gave_up", "unserved")
RESULTS: Final = (OK, *NAMES, *NOT_JUDGED)


def mirror_metrics(totals: list[RouteTotals]) -> Iterator[Metric]:
    """One family each, of the routes that mirror or have mirrored."""
    mirroring = [t for t in totals if t.variant == Variant.CANARY and (t.mirrored or t.mirror_shed)]
    yield counter(
        "gateway_mirrored_requests_total",
        "Copies of stable's requests that the canary was sent, by what they came to; no client got their answers.",
        ("route", "result"),
        (((t.route, result), n) for t in mirroring for result, n in with_zeros(t.mirrored, RESULTS)),
    )
    yield counter(
        "gateway_mirror_shed_total",
        "Copies that were not made for want of room, by the limit that was reached.",
        ("route", "reason"),
        (((t.route, reason), n) for t in mirroring for reason, n in with_zeros(t.mirror_shed, SHED)),
    )
    yield counter(
        "gateway_mirror_pairs_total",
        "Requests that both versions have met: their outcomes are compared one by one.",
        ("route",),
        (((t.route,), t.mirror_pairs.get(PAIRS, 0)) for t in mirroring),
    )
    yield counter(
        "gateway_mirror_differing_pairs_total",
        "Pairs of which only one version's outcome was in this class, by that version.",
        ("route", "variant", "class"),
        (
            ((t.route, variant.label, name), t.mirror_pairs.get(side + name, 0))
            for t in mirroring
            for variant, side in ((Variant.STABLE, STABLE_ONLY), (Variant.CANARY, CANARY_ONLY))
            for name in NAMES
        ),
    )
    yield counter(
        "gateway_mirror_outputs_total",
        "Pairs of answers that were to be compared, by what came of it.",
        ("route", "result"),
        (((t.route, result), n) for t in mirroring for result, n in _outputs(t.mirror_pairs)),
    )


def _outputs(pairs: Mapping[str, int]) -> list[tuple[str, int]]:
    compared, disagreed = pairs.get(COMPARED, 0), pairs.get(DISAGREED, 0)
    return [("agreed", compared - disagreed), ("disagreed", disagreed), ("unread", pairs.get(UNREAD, 0))]
