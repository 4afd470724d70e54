"""A transition as an event for PagerDuty (Events API v2).

Rules:

1. One alert a rollout: its id is the ``dedup_key``, so that a repeated message changes nothing, and a pause that
   becomes a rollback stays one alert. What ends the trouble resolves it.
2. A rollback stays open until a person has looked: the next rollout has another id.

Source: PagerDuty, "Events API v2": send an alert event, PD-CEF fields and their lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.hooks.envelope import Message, Transition, json_bytes
from gateway.hooks.summary import summary

SEVERITIES: Final[Mapping[str, str]] = {
    "rolled_back": "error",
    "returning": "error",
    "paused": "warning",
    "waiting": "warning",
}
RESOLVING: Final = frozenset({"resumed", "promoted", "withdrawn"})
# What a hook without ``transitions`` gets; a gate that is waited for is its operator's to ask for.
DEFAULT_KINDS: Final = frozenset({"rolled_back", "returning", "paused"}) | RESOLVING
# An event that is wrong stays wrong; anything else may be taken later.
REFUSED_FOR_GOOD: Final = frozenset({400, 410})
_SUMMARY_CHARS_MAX = 1024
_DETAIL_CHARS_MAX = 2_500


def pagerduty(transition: Transition, links: str, routing_key: str) -> Message:
    """The transition as an event of the service with this key."""
    view, kind = transition.view, transition.kind
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": "resolve" if kind in RESOLVING else "trigger",
        "dedup_key": f"canary-gateway/{view.id}",
    }
    if kind not in RESOLVING:
        told = summary(transition, links)
        event |= {
            "client": "canary-gateway",
            "payload": {
                "summary": told.headline[:_SUMMARY_CHARS_MAX],
                "source": view.route,
                "severity": SEVERITIES.get(kind, "info"),
                "timestamp": transition.at,
                "component": view.canary,
                "group": view.route,
                "class": kind,
                "custom_details": {name: value[:_DETAIL_CHARS_MAX] for name, value in told.rows},
            },
        }
        if told.link:
            event |= {"client_url": told.link, "links": [{"href": told.link, "text": "Rollout"}]}
    return Message(transition.id, "application/json", json_bytes(event))
