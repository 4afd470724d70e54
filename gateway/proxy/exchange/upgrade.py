"""A request to switch protocols (RFC 9110, 7.8).

Rules:

1. Passed on only for a protocol that the route allows, for a request of HTTP/1.1 without a body. The client's
   connection then ends with the exchange, whatever the answer: what follows the request may be of either protocol.
2. The tunnel begins after a 101 that names the very protocol; its handshake is the outcome.
3. Any other offer to upgrade is not passed on, and the request is served as if it had not been there.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.proxy.heads.field_policy import FieldPolicy
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RawHeaders
from gateway.proxy.heads.response_head import read_response


class Upgrade:
    """The protocols that a request offers; ``protocol`` is the one that was passed on, in lower case."""

    __slots__ = ("_offered", "_possible", "protocol", "switched_head")

    def __init__(self, values: list[bytes]) -> None:
        self._offered = [token for value in values for token in _tokens(value)]
        self._possible = False
        self.protocol = b""
        self.switched_head = b""
        """The answer's head for the client, once the backend has agreed."""

    def allow(self) -> None:
        """Nothing of the request follows its head, and Connection nominates Upgrade: it may be passed on."""
        self._possible = True

    def choose(self, allowed: Sequence[str]) -> bytes:
        """The first of the offered protocols that the route allows, which is passed on; empty without one."""
        offered = self._offered if self._possible else ()
        self.protocol = next((name for name in offered if name.decode("latin-1") in allowed), b"")
        self.switched_head = b""
        return self.protocol

    def agree(self, fields: RawHeaders, policy: FieldPolicy, id_line: bytes) -> bool:
        """A 101 has come: whether it is the one that was asked for (rule 2)."""
        named = [value for name, value in fields if name.lower() == b"upgrade"]
        options = [token for name, value in fields if name.lower() == b"connection" for token in _tokens(value)]
        if not self.protocol or len(named) != 1:
            return False
        if named[0].strip().lower() != self.protocol or b"upgrade" not in options:
            return False
        head = read_response(fields, policy)
        if isinstance(head, Fault):
            return False
        lines = (*head.lines, b"connection: upgrade\r\nupgrade: ", named[0], b"\r\n", id_line)
        self.switched_head = b"HTTP/1.1 101 Switching Protocols\r\n" + b"".join(lines)
        return True


def _tokens(value: bytes) -> list[bytes]:
    return [token.partition(b";")[0].strip().lower() for token in value.split(b",")]
