"""Who may use the API: one check in front of everything, as plain ASGI.

Rules:

0. A request without exactly one ``Host``, or with two of another field that is asked here (`_ONCE`), is answered 400
   before anything else: two readers of it could disagree about what it says.
1. With a token, every path needs it, but for those that say whether the gateway works and how it is doing
   (`OPEN_PATHS`): probes and scrapers carry no secrets, and those answers hold none. Nothing below applies to them.
   The console's files need no token either; they hold no data. A webhook knows its sender by a signature
   (`SIGNED_PATHS`), which its handler checks; one that is refused counts as a failure of its address, as in rule 6.
2. Without one the listener is bound to loopback, and then the danger is a browser on this machine: a request whose
   ``Host`` is not a name of this machine (DNS rebinding) is refused, for the console's files too, and so is whatever a
   page of another origin sends.
3. A change that a page of another origin requests is refused either way. There are no cookies and no CORS.
4. Every requested change is in the audit trail and in the log ``gateway.audit``, also a refused one; so are requests
   without valid credentials.
5. Nothing that is answered may be stored, but for the console's files (console/files.py), nor read by a page of another
   origin.
6. An address that fails too often is answered 429, counted, and not recorded one by one (auth_failures.py).

What a principal may do is asked at the operation (`app`), which knows the scope that it needs.

Source: RFC 9112, 3.2 (``Host``), RFC 6750 (bearer tokens), Fetch standard (``Origin``, ``Sec-Fetch-Site``).
"""

from __future__ import annotations

import logging
import math
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin import problems, request_parsing
from gateway.admin.audit import AuditTrail
from gateway.admin.auth_failures import PER_MINUTE, AuthFailures
from gateway.admin.pages import is_page
from gateway.admin.principals import ANYBODY, Keyring, NotAuthenticatedError
from gateway.control.journal.rows import AuditEntry
from gateway.runtime import logs

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
SIGNED_PATHS = frozenset({"/api/v1/webhooks/mlflow"})
_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_ONCE = (b"host", b"origin", b"sec-fetch-site", b"content-type")
_CHALLENGE = 'Bearer realm="canary-gateway"'
_PATH_CHARS_MAX = 500
_log = logging.getLogger("gateway.audit")
_log.setLevel(logging.INFO)  # who changed what is on record however quiet the rest of the log is


class AuthMiddleware:
    """Let through what may pass; answer the rest."""

    def __init__(self, app: ASGIApp, keyring: Keyring, trail: AuditTrail, auth_failures: AuthFailures) -> None:
        self._app = app
        self._keyring = keyring
        self._trail = trail
        self._auth_failures = auth_failures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope["audit"] = {}
        logs.trace_id.set(logs.trace_id_in(headers.getlist("traceparent")))
        scope["principal"] = ANYBODY
        answer = self._refusal(scope, headers) or self._app

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                _harden(message)
                self._record(scope, headers, message["status"])
            await send(message)

        await answer(scope, receive, sending)

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        path = scope["path"]
        if why := _ambiguity(scope):
            scope["audit"]["problem"] = "malformed-request"
            return problems.response("malformed-request", why, path)
        if path in OPEN_PATHS or path in SIGNED_PATHS or (is_page(path) and not self._keyring.open):
            return None
        try:
            scope["principal"] = self._keyring.find(headers, scope.get("client_certificate"))
        except NotAuthenticatedError:
            scope["audit"]["problem"] = "unauthorized"
            if not self._auth_failures.fail(_address(scope), "invalid" if "authorization" in headers else "missing"):
                return self._limited(scope)
            error = ', error="invalid_token"' if "authorization" in headers else ""
            return problems.response("unauthorized", str(error), path, {"www-authenticate": _CHALLENGE + error})
        if self._keyring.open and not _names_this_machine(headers.get("host", "")):
            why = "without a token, use localhost, 127.0.0.1 or [::1] as the host in the URL"
        elif self._keyring.open and not _own_origin(headers):
            why = "a page of another origin sent this; open the console at this listener's own address"
        elif scope["method"] in _CHANGES and not _same_origin(headers):
            why = "a page of another origin sent this; use the CLI or curl"
        else:
            return None
        scope["audit"]["problem"] = "cross-origin"
        if not self._auth_failures.fail(_address(scope), "cross_origin"):
            return self._limited(scope)
        return problems.response("cross-origin", why, path)

    @staticmethod
    def _limited(scope: Scope) -> ASGIApp:
        scope["audit"]["limited"] = True
        why = "too many requests from this address had no valid token; those that have one are answered as usual"
        retry = {"retry-after": str(math.ceil(60 / PER_MINUTE))}
        return problems.response("too-many-failures", why, scope["path"], retry)

    def _record(self, scope: Scope, headers: Headers, status: int) -> None:
        about: dict[str, Any] = scope["audit"]
        problem = about.get("problem")
        stranger = problem in ("unauthorized", "cross-origin", "invalid-signature")
        if scope["path"] in OPEN_PATHS or not (stranger or status == 403 or scope["method"] in _CHANGES):
            return
        if status == 403 and not stranger:
            self._auth_failures.forbid(_address(scope))
        forged = problem == "invalid-signature"
        if "limited" in about or (forged and not self._auth_failures.fail(_address(scope), "invalid")):
            return
        principal = scope["principal"]
        entry = AuditEntry(
            id=0,
            at="",
            principal=principal.name,
            actor=request_parsing.actor(headers) if stranger else principal.actor(headers),
            address=_address(scope),
            method=scope["method"],
            # The raw path is still percent-encoded, so that nobody can write log lines of their own.
            path=scope.get("raw_path", b"").decode("latin-1")[:_PATH_CHARS_MAX],
            status=status,
            problem=problem,
            said=about.get("said", ""),
        )
        self._trail.add(entry, stranger=stranger)
        if entry.method in _CHANGES:
            said = f": {entry.said}" if entry.said else ""
            _log.info(
                "%s %s by %s from %s: %d%s", entry.method, entry.path, entry.actor, entry.address, entry.status, said
            )


def _ambiguity(scope: Scope) -> str:
    """What makes the request say two things; the empty text when nothing does."""
    names = [name for name, _ in scope["headers"]]
    for name in _ONCE:
        if names.count(name) > 1:
            return f"the header field {name.decode()} is given {names.count(name)} times; send it once"
    if b"host" not in names and scope.get("http_version") != "1.0":
        return "the header field host is missing; send it"
    return ""


def _address(scope: Scope) -> str:
    found: str = (scope.get("client") or ("unknown", 0))[0]
    return found


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
    return headers.get("sec-fetch-site", "none") in ("none", "same-origin") and _own_origin(headers)


def _own_origin(headers: Headers) -> bool:
    """Whether the request is not of another origin's page; a link that somebody follows to here names no origin."""
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
    headers.setdefault("cache-control", "no-store")
    headers.setdefault("cross-origin-resource-policy", "same-origin")
    headers["x-content-type-options"] = "nosniff"
    message["headers"] = headers.raw
