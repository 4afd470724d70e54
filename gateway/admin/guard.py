"""Who may speak to the API: the one door in front of everything, as plain ASGI.

Rules:

1. With a token, every path needs it, but for those that say whether the gateway works and how it is doing
   (`OPEN_PATHS`): probes and scrapers carry no secrets, and those answers hold none. Nothing below applies to them.
2. Without one the listener is bound to loopback, and then the danger is a browser on this machine: a request whose
   ``Host`` is not a name of this machine (DNS rebinding) is refused.
3. A wish that a page of another origin sends is refused either way. There are no cookies and no CORS.
4. Every wish is told to the log ``gateway.audit``, also a refused one.
5. Nothing that is answered may be stored.

Source: RFC 6750 (bearer tokens), Fetch standard (``Origin``, ``Sec-Fetch-Site``).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin import intake, problems

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_WISHES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_CHALLENGE = 'Bearer realm="canary-gateway"'
_audit = logging.getLogger("gateway.audit")
_audit.setLevel(logging.INFO)  # who wished for what is on record however quiet the rest of the log is


class Guard:
    """Let through what may pass; answer the rest."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else _digest(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = self._refusal(scope, headers) or self._app
        wished = scope["method"] in _WISHES
        scope["audit"] = {}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                _harden(message)
                if wished:
                    _tell(scope, headers, message["status"])
            await send(message)

        await answer(scope, receive, sending)

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        path = scope["path"]
        if path in OPEN_PATHS:
            return None
        if why := self._unauthorized(headers):
            error = ', error="invalid_token"' if "authorization" in headers else ""
            return problems.response("unauthorized", why, path, {"www-authenticate": _CHALLENGE + error})
        if self._token is None and not _names_this_machine(headers.get("host", "")):
            return problems.response(
                "cross-origin", "without a token, use localhost, 127.0.0.1 or [::1] as the host in the URL", path
            )
        if scope["method"] in _WISHES and not _same_origin(headers):
            return problems.response("cross-origin", "a page of another origin sent this; use the CLI or curl", path)
        return None

    def _unauthorized(self, headers: Headers) -> str:
        """What is wrong with the credentials; empty when they are right. Takes the same time for every wrong token."""
        if self._token is None:
            return ""
        given = headers.getlist("authorization")
        if not given:
            return "send the header authorization: Bearer TOKEN, with the token that the configuration names"
        scheme, _, token = given[0].partition(" ")
        right = hmac.compare_digest(_digest(token.strip().encode("latin-1")), self._token)
        if len(given) == 1 and scheme.lower() == "bearer" and right:
            return ""
        return "this is not the token that the gateway was started with"


def _digest(secret: bytes) -> bytes:
    # Equal lengths, so that the comparison does not tell the token's.
    return hashlib.sha256(secret).digest()


def _names_this_machine(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname if _splits(f"//{host}") else None
    if name is None:
        return False
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _same_origin(headers: Headers) -> bool:
    """Whether no browser says otherwise; other clients send neither header."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = headers.get("origin")
    return origin is None or (_splits(origin) and urlsplit(origin).netloc == headers.get("host", ""))


def _splits(url: str) -> bool:
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True


def _harden(message: Message) -> None:
    headers = MutableHeaders(raw=list(message.get("headers", [])))
    headers["cache-control"] = "no-store"
    headers["x-content-type-options"] = "nosniff"
    message["headers"] = headers.raw


def _tell(scope: Scope, headers: Headers, status: int) -> None:
    # The raw path is still percent-encoded, so that nobody can write log lines of their own.
    path = scope.get("raw_path", b"").decode("latin-1")
    about: dict[str, Any] = scope["audit"]
    client = scope.get("client") or ("unknown", 0)
    said = f": {about['said']}" if about.get("said") else ""
    _audit.info("%s %s by %s from %s: %d%s", scope["method"], path, intake.actor(headers), client[0], status, said)
