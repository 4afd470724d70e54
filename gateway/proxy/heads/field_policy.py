"""What the configuration says about header fields, made ready for use: names in lower case, whole lines, sets.

One per worker. Everything that is the same for each request is computed here, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.proxy.heads.tracing import Ids, trace_id_of, valid_request_id
from gateway.runtime.settings import HeaderPolicy

REJECT, DROP, PASS = "reject", "drop", "pass"
_NAMES_MAX: Final = 512
_NAME_BYTES_MAX: Final = 64


class FieldPolicy:
    """The policy of one worker. ``request_id`` is the field's lower-case name, None without one."""

    __slots__ = (
        "_id_begin",
        "_ids",
        "_makes_trace",
        "_names",
        "_names_back",
        "_parent_end",
        "_spans",
        "forwarded",
        "host_seen",
        "rejects_underscores",
        "request_id",
        "drops_underscores",
        "special_in_request",
        "special_in_response",
        "via",
        "via_10",
        "via_11",
        "via_line_11",
    )

    def __init__(
        self, policy: HeaderPolicy, special_in_request: frozenset[bytes], special_in_response: frozenset[bytes]
    ) -> None:
        self._ids = Ids()
        self._parent_end = self._ids.parent + b"\r\n"
        # Then the attempts have a line of their own each, and there always is a trace.
        self._spans = policy.traceparent == "span"
        self._makes_trace = self._spans or policy.traceparent == "make"
        self.forwarded = policy.forwarded
        self.rejects_underscores = policy.underscores == REJECT
        self.drops_underscores = policy.underscores == DROP
        self.via = None if policy.via is None else policy.via.encode()
        self.via_10, self.via_11 = (b"%b %b" % (version, self.via or b"") for version in (b"1.0", b"1.1"))
        self.request_id = None if policy.request_id is None else policy.request_id.encode()
        self._id_begin = b"%b: " % (self.request_id or b"")
        names = frozenset() if self.request_id is None else frozenset((self.request_id,))
        self.special_in_request = special_in_request | names
        # The answer bears the name that the gateway gave the request, not another.
        self.special_in_response = special_in_response | names
        self.via_line_11 = b"via: %b\r\n" % self.via_11
        self.host_seen = b"\n"  # no value has it, an empty one neither
        """The last Host that was found to be well-formed: most requests have the same."""
        self._names: dict[bytes, bytes] = {}
        self._names_back: dict[bytes, bytes] = {}

    def name_in(self, name: bytes) -> bytes:
        """What a request's field is called in lower case; nothing for one that is simply passed on."""
        low = self._names.get(name)
        if low is None:
            low = name.lower()
            if low not in self.special_in_request and low.find(b"_") < 0:
                low = b""
            _remember(self._names, name, low)
        return low

    def name_back(self, name: bytes) -> bytes:
        """As `name_in`, of a response's field."""
        low = self._names_back.get(name)
        if low is None:
            low = name.lower()
            if low not in self.special_in_response:
                low = b""
            _remember(self._names_back, name, low)
        return low

    def passes(self, via: list[bytes]) -> int:
        """How often a request has come through here, by its Via fields."""
        own = 0
        for value in via:
            for entry in value.split(b","):
                words = entry.split(None, 2)
                own += len(words) > 1 and words[1] == self.via
        return own

    def name(
        self, lines: list[bytes], request_id: bytes | None, traceparents: Sequence[bytes], tracestates: Sequence[bytes]
    ) -> tuple[bytes, bytes]:
        """Add the lines that name the request; the one with its id, and its trace id (either may be empty).

        ``request_id`` is that of a trusted peer, None otherwise.
        """
        trace_id = b""
        if traceparents:
            # More than one is as good as none (W3C Trace Context, 3.2.1).
            trace_id = (trace_id_of(traceparents[0]) if len(traceparents) == 1 else None) or b""
            if trace_id and not self._spans:
                lines += (b"traceparent: ", traceparents[0], b"\r\n")
                for value in tracestates:
                    lines += (b"tracestate: ", value, b"\r\n")
        fresh = b""
        if not trace_id and self._makes_trace:
            trace_id = fresh = self._ids.new()
            if not self._spans:
                lines.append(b"traceparent: 00-")
                lines.append(fresh)
                lines.append(self._parent_end)
        if self.request_id is None:
            return b"", trace_id
        if request_id is None or not valid_request_id(request_id):
            request_id = fresh or self._ids.new()
        line = self._id_begin + request_id + b"\r\n"
        lines.append(line)
        return line, trace_id

    def id_of(self, line: bytes) -> bytes:
        """The request id in the line that `name` gave."""
        return line[len(self.request_id or b"") + 2 : -2]


def _remember(names: dict[bytes, bytes], name: bytes, low: bytes) -> None:
    if len(name) <= _NAME_BYTES_MAX:
        if len(names) >= _NAMES_MAX:  # peers choose names freely: afresh rather than without bound
            names.clear()
        names[name] = low


def forwarded_element(peer: bytes, host: bytes, *, tls: bool) -> bytes:
    """One element of Forwarded (RFC 7239, 4): who asked, for what host, by what scheme.

    >>> forwarded_element(b"2001:db8::1", b"h:80", tls=True)
    b'for="[2001:db8::1]";host="h:80";proto=https'
    """
    node = b'"[%b]"' % peer if b":" in peer else peer or b"unknown"
    named = b';host="%b"' % host if host else b""
    return b"for=%b%b;proto=%b" % (node, named, b"https" if tls else b"http")
