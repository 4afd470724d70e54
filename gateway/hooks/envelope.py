"""One transition of a rollout as bytes for a program: a CloudEvent. What people read is in summary.py and chat.py.

CloudEvents 1.0, structured mode (the whole event is the JSON body). ``id`` is ``<rollout>.<revision>``, so that a
receiver can recognise a repeated event; ``source`` is the route in the admin API; ``type`` is `TYPE_PREFIX` and the
transition's kind.

Source: CloudEvents specification 1.0.2, section 2 and the JSON format.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from gateway.control.views import RolloutView

TYPE_PREFIX = "io.canary-gateway.rollout."
GATE_TYPE = "io.canary-gateway.gate.asked"


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


def cloudevent(transition: Transition, links: str = "") -> Message:
    """The transition as a CloudEvent whose data is the rollout as the admin API shows it; it needs no links."""
    return _event(transition, TYPE_PREFIX + transition.kind, msgspec.to_builtins(transition.view))


def gate_question(transition: Transition, gate: str) -> Message:
    """The question whether ``gate`` is open, as a CloudEvent."""
    return _event(transition, GATE_TYPE, {"gate": gate, "rollout": msgspec.to_builtins(transition.view)})


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
    return Message(transition.id, "application/cloudevents+json", json_bytes(event))


def json_bytes(value: Any) -> bytes:
    """JSON without the infinities and NaNs that strict readers refuse: they become null."""
    return msgspec.json.encode(json.loads(json.dumps(value), parse_constant=lambda _: None))
