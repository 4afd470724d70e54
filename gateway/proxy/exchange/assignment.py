"""Which variant a request is assigned to.

Rules:

1. A variant is forced by a header where the route allows it, given by the sticky key's hash, or drawn. Every draw is
   independent.
2. What is evidence of it, and what is not, is entered by exchange_attempts.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.core.traffic.split import bucket_of_key, variant_for
from gateway.core.types import WEIGHT_BP_MAX, Variant
from gateway.proxy.exchange.attempt import STABLE
from gateway.proxy.heads.message_head import RequestHead
from gateway.proxy.heads.request_head import cookie_value
from gateway.proxy.routes.route_runtime import RouteRuntime

_LABELS: Final = {b"stable": Variant.STABLE, b"canary": Variant.CANARY}


def assign(route: RouteRuntime, head: RequestHead, draw: Callable[[], float]) -> tuple[Variant, bool, float]:
    """Assign a request to a variant (rule 1), and count that.

    Returns the variant, whether it was forced, and the point of the sticky key, which is the unit of evidence; -1
    without one.
    """
    counters, variant, unit = route.counters, STABLE, -1.0
    counters.open += 1
    if route.has_canary:
        if route.forced:
            asked = head.first(route.forced)
            forced = _LABELS.get(asked.strip().lower()) if asked is not None else None
            if forced is not None:
                counters.totals[forced].forced += 1
                return forced, True, unit
        if route.weight_bp:
            key = None
            if route.sticky_header:
                key = head.first(route.sticky_header)
            elif route.sticky_cookie:
                key = cookie_value(head.cookies, route.sticky_cookie)
            if key:
                point = unit = bucket_of_key(key, route.route.salt)
            else:
                point = draw() * WEIGHT_BP_MAX
            variant = variant_for(point, route.weight_bp)
    counters.of(variant).assigned()
    return variant, False, unit
