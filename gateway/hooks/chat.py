"""A transition as a message for a chat: Slack and Teams. What happened, the numbers, why, and where to look.

Sources: Slack, "Block Kit" (section and context blocks, escaping of ``&<>``); Microsoft, Adaptive Cards 1.4 in a Teams
workflow's message.
"""

from __future__ import annotations

from typing import Any

from gateway.hooks.envelope import Message, Transition, json_bytes
from gateway.hooks.summary import summary

# Slack refuses a text block of more than 3,000 characters.
_TEXT_CHARS_MAX = 2_500


def slack(transition: Transition, links: str = "") -> Message:
    """The transition as a message for a Slack incoming webhook."""
    told = summary(transition, links)
    headline = _slack_safe(told.headline)
    text = f"*{headline}*\n" + "\n".join(f"*{name}:* {_slack_safe(value)}" for name, value in told.rows)
    text = text[:_TEXT_CHARS_MAX]
    if told.link:
        text += f"\n<{told.link}|Rollout>"
    body = {
        "text": headline,
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": text}},
            {"type": "context", "elements": [{"type": "plain_text", "text": f"{transition.id} at {transition.at}"}]},
        ],
    }
    return Message(transition.id, "application/json", json_bytes(body))


def teams(transition: Transition, links: str = "") -> Message:
    """The transition as an adaptive card for a Teams workflow."""
    told = summary(transition, links)
    colour = {"promoted": "Good", "rolled_back": "Attention", "paused": "Warning"}.get(transition.kind, "Default")
    card: dict[str, Any] = {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.4",
        "body": [
            {"type": "TextBlock", "text": told.headline, "weight": "Bolder", "color": colour, "wrap": True},
            {
                "type": "FactSet",
                "facts": [{"title": name, "value": value[:_TEXT_CHARS_MAX]} for name, value in told.rows],
            },
        ],
    }
    if told.link:
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Rollout", "url": told.link}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return Message(transition.id, "application/json", json_bytes({"type": "message", "attachments": [attachment]}))


def _slack_safe(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
