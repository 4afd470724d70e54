"""The signature of a webhook, as the Standard Webhooks specification (1.0) has it.

    webhook-id: <id>             the same when a message is sent again: receivers drop what they have seen
    webhook-timestamp: <seconds> of this attempt; receivers refuse old ones, so that nothing can be replayed later
    webhook-signature: v1,<base64 of HMAC-SHA256(secret, "<id>.<timestamp>.<body>")>

What key a secret stands for is `gateway.config.hooks.key_of`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac


def signature_headers(key: bytes, message_id: str, body: bytes, wall_s: float) -> dict[str, str]:
    """The three headers for one attempt at the wall time ``wall_s`` (seconds since the Unix epoch)."""
    timestamp = str(int(wall_s))
    digest = hmac.new(key, b".".join((message_id.encode(), timestamp.encode(), body)), hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }
