"""One transition of a rollout as bytes for a receiver: a CloudEvent, a Slack message or a Teams card.

CloudEvents 1.0, structured mode (the whole event is the JSON body). ``id`` is ``<rollout>.<revision>``, so that a
receiver can recognise a repeated event; ``source`` is the route in the admin API; ``type`` is `TYPE_PREFIX` and the
transition's kind. Slack and Teams get what a person wants to read: what happened, why, and the numbers.

Sources: CloudEvents specification 1.0.2, section 2 and the JSON format; Slack, "Block Kit" (section and context blocks,
escaping of ``&<>``); Microsoft, Adaptive Cards 1.4 in a Teams workflow's message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.control.views import RolloutView

TYPE_PREFIX = "io.canary-gateway.rollout."
GATE_TYPE = "io.canary-gateway.gate.asked"
# Slack refuses a text block of more than 3,000 characters.
_TEXT_CHARS_MAX = 2_500


class Transition(msgspec.Struct, frozen=True):
    """A rollout changed: how (``kind``, one of NOTIFY_KINDS), when (ISO 8601), and what it is now."""

    id: str
    kind: str
    at: str
    view: RolloutView


class Message(msgspec.Struct, frozen=True):
    """What is sent: an id that repeats when it is sent again, a media type and the bytes."""

    id: str
    content_type: str
    body: bytes


def cloudevent(transition: Transition) -> Message:
    """The transition as a CloudEvent whose data is the rollout as the admin API shows it."""
    return _event(transition, TYPE_PREFIX + transition.kind, msgspec.to_builtins(transition.view))


def gate_question(transition: Transition, gate: str) -> Message:
    """The question whether ``gate`` is open, as a CloudEvent."""
    return _event(transition, GATE_TYPE, {"gate": gate, "rollout": msgspec.to_builtins(transition.view)})


def slack(transition: Transition) -> Message:
    """The transition as a message for a Slack incoming webhook."""
    headline, lines = _summary(transition)
    text = f"*{_slack_safe(headline)}*\n" + "\n".join(
        f"*{name}:* {_slack_safe(value)}" for name, value in lines.items()
    )
    body = {
        "text": _slack_safe(headline),
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": text[:_TEXT_CHARS_MAX]}},
            {"type": "context", "elements": [{"type": "plain_text", "text": f"{transition.id} at {transition.at}"}]},
        ],
    }
    return Message(transition.id, "application/json", _json(body))


def teams(transition: Transition) -> Message:
    """The transition as an adaptive card for a Teams workflow."""
    headline, lines = _summary(transition)
    colour = {"promoted": "Good", "rolled_back": "Attention", "paused": "Warning"}.get(transition.kind, "Default")
    card = {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.4",
        "body": [
            {"type": "TextBlock", "text": headline, "weight": "Bolder", "color": colour, "wrap": True},
            {
                "type": "FactSet",
                "facts": [{"title": name, "value": value[:_TEXT_CHARS_MAX]} for name, value in lines.items()],
            },
        ],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return Message(transition.id, "application/json", _json({"type": "message", "attachments": [attachment]}))


FORMATS: Mapping[str, Callable[[Transition], Message]] = {"cloudevents": cloudevent, "slack": slack, "teams": teams}


def _event(transition: Transition, kind: str, data: Any) -> Message:
    view = transition.view
    event = {
        "specversion": "1.0",
        "id": transition.id,
        "source": f"/api/v1/routes/{view.route}",
        "type": kind,
        "subject": view.id,
        "time": transition.at,
        "datacontenttype": "application/json",
        "data": data,
    }
    return Message(transition.id, "application/cloudevents+json", _json(event))


def _summary(transition: Transition) -> tuple[str, dict[str, str]]:
    view = transition.view
    against = "with nothing to compare it with" if view.stable is None else f"against {view.stable}"
    lines = {
        "Why": view.reason,
        "Canary": f"{view.canary} {against}, {view.canary_percent:g} % of requests",
        "Step": f"{view.step} of {view.steps}, {view.canary_requests} canary requests",
        "By": view.by,
    }
    if view.causes:
        lines["Causes"] = ", ".join(view.causes)
    return f"{view.route}: rollout {view.id} {transition.kind.replace('_', ' ')}", lines


def _slack_safe(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _json(value: Any) -> bytes:
    """JSON without the infinities and NaNs that strict readers refuse: they become null."""
    return msgspec.json.encode(json.loads(json.dumps(value), parse_constant=lambda _: None))
