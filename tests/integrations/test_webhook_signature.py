"""The signature of an MLflow webhook: only who has the secret is listened to, once, and not for long."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from gateway.integrations.mlflow.webhook import AGE_S_MAX, Deliveries, model_of, signed_by

SECRET, BODY, NOW_S = b"a-secret-of-sixteen", b'{"data": {"name": "digits"}}', 1_800_000_000.0


def signed(secret: bytes = SECRET, at_s: float = NOW_S, **changes: str) -> dict[str, str]:
    stamp = str(int(at_s))
    digest = hmac.new(secret, b"one." + stamp.encode() + b"." + BODY, hashlib.sha256).digest()
    return {
        "x-mlflow-delivery-id": "one",
        "x-mlflow-timestamp": stamp,
        "x-mlflow-signature": "v1," + base64.b64encode(digest).decode(),
    } | changes


def test_the_secret_that_signed_it_is_found() -> None:
    assert signed_by(signed(), BODY, [b"another-secret-of-ours", SECRET], NOW_S) == SECRET


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed(b"another-secret-of-ours"),
        signed(at_s=NOW_S - AGE_S_MAX - 1),
        signed(at_s=NOW_S + AGE_S_MAX + 1),
        signed() | {"x-mlflow-timestamp": "soon"},
        signed() | {"x-mlflow-timestamp": "\u0661"},
        signed() | {"x-mlflow-timestamp": "1" * 5000},
        signed() | {"x-mlflow-delivery-id": "two"},
        signed() | {"x-mlflow-signature": "\udcff"},
        signed() | {"x-mlflow-signature": ""},
    ],
)
def test_anything_else_is_not(headers: dict[str, str]) -> None:
    assert signed_by(headers, BODY, [SECRET], NOW_S) is None


def test_another_body_is_another_delivery() -> None:
    assert signed_by(signed(), BODY + b" ", [SECRET], NOW_S) is None


def test_a_delivery_counts_once() -> None:
    deliveries = Deliveries()
    assert [deliveries.first("a"), deliveries.first("b"), deliveries.first("a")] == [True, True, False]


@pytest.mark.parametrize(
    ("body", "model"), [(BODY, "digits"), (b"[]", None), (b"{", None), (b'{"data": {"name": 1}}', None)]
)
def test_the_model_that_it_is_about(body: bytes, model: str | None) -> None:
    assert model_of(body) == model
