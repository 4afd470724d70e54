"""The signature of an MLflow webhook: who may say that an alias was moved.

    X-MLflow-Delivery-Id: <id>
    X-MLflow-Timestamp: <seconds>
    X-MLflow-Signature: v1,<base64 of HMAC-SHA256(secret, "<id>.<timestamp>.<body>")>

A delivery is only a hint to look at the alias now: what is done is decided by the registry's state, so that a delivery
that is repeated, lost or out of order does no harm.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping

AGE_S_MAX = 300.0
_REMEMBERED = 1000


class Deliveries:
    """The ids of the last deliveries."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def first(self, delivery_id: str) -> bool:
        """Whether this delivery is new; it is remembered."""
        if delivery_id in self._ids:
            return False
        self._ids[delivery_id] = None
        if len(self._ids) > _REMEMBERED:
            del self._ids[next(iter(self._ids))]
        return True


def signed_by(headers: Mapping[str, str], body: bytes, secrets: Iterable[bytes], now_s: float) -> bytes | None:
    """The secret that signed the delivery; None for none of them, and for a delivery that is too old."""
    delivery_id, timestamp = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    signature = headers.get("x-mlflow-signature", "")
    if not delivery_id or not timestamp.isascii() or not timestamp.isdecimal() or len(timestamp) > 12:
        return None
    if abs(now_s - int(timestamp)) > AGE_S_MAX:
        return None
    signed = b".".join((delivery_id.encode(), timestamp.encode(), body))
    found = None
    for secret in secrets:
        digest = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
        if hmac.compare_digest(f"v1,{digest}".encode(), signature.encode("utf-8", "replace")):
            found = secret
    return found


def model_of(body: bytes) -> str | None:
    """The model that a delivery is about."""
    try:
        data = json.loads(body)["data"]
        name = data["name"]
    except (ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None
