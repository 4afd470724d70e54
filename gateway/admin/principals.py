"""Who is asking, and what they may do: bearer tokens by their hash, client certificates by their common name.

Rules:

1. A presented token is compared with every key, each in constant time: how long it takes reveals none of them.
2. A token decides when there is one, a certificate when there is none.
3. Without keys and certificates everybody may do all; such a listener is on loopback (see `auth`).

Source: RFC 6750 (bearer tokens).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import msgspec
from starlette.datastructures import Headers

from gateway.admin import request_parsing
from gateway.config.admin import ClientConfig, Scope
from gateway.config.host_checks import Key

_ALL = frozenset(Scope)


class Principal(msgspec.Struct, frozen=True):
    """Who makes a request. Without a name: the holder of the single admin token, or anybody where none is needed."""

    name: str
    scopes: frozenset[Scope]

    def actor(self, headers: Headers) -> str:
        """Who is to be named for a command: the principal, and behind whom the client says it stands."""
        said = request_parsing.actor(headers)
        if not self.name:
            return said
        return self.name if said in (request_parsing.DEFAULT_ACTOR, self.name) else f"{said} via {self.name}"


ANYBODY = Principal("", _ALL)


class NotAuthenticatedError(Exception):
    """The request carries no valid credentials; the text says why."""


class Keyring:
    """All that lets in."""

    def __init__(self, keys: Sequence[Key] = (), clients: Sequence[ClientConfig] = ()) -> None:
        self._keys = _principals(keys)
        self._clients = {client.name: Principal(client.name, _contained(client.scopes)) for client in clients}

    def replace(self, keys: Sequence[Key]) -> bool:
        """Go by these tokens from the next request on; whether they are others than before."""
        before, self._keys = self._keys, _principals(keys)
        return self._keys != before

    @property
    def open(self) -> bool:
        """Whether no credentials are asked for."""
        return not self._keys and not self._clients

    def find(self, headers: Headers, certificate: str | None) -> Principal:
        """Who sent these headers over a connection with this certificate. Raises NotAuthenticatedError."""
        if self.open:
            return ANYBODY
        given = headers.getlist("authorization")
        if not given:
            return self._by_certificate(certificate)
        scheme, _, token = given[0].partition(" ")
        found = self._by_token(token.strip().encode("latin-1"))
        if found is None or len(given) != 1 or scheme.lower() != "bearer":
            raise NotAuthenticatedError("the token is not valid")
        return found

    def _by_token(self, token: bytes) -> Principal | None:
        digest = hashlib.sha256(token).digest()
        found = [principal for key, principal in self._keys if hmac.compare_digest(digest, key)]
        return found[0] if found else None

    def _by_certificate(self, name: str | None) -> Principal:
        if name is None or name not in self._clients:
            raise NotAuthenticatedError(
                "send the header authorization: Bearer TOKEN, with a token that the configuration names"
            )
        return self._clients[name]


def _principals(keys: Sequence[Key]) -> list[tuple[bytes, Principal]]:
    return [(bytes.fromhex(key.sha256), Principal(key.name, _contained(key.scopes))) for key in keys]


def _contained(scopes: Sequence[Scope]) -> frozenset[Scope]:
    return frozenset[Scope]().union(*(scope.implies for scope in scopes))
