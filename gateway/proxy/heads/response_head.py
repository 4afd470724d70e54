"""An answer's head: checked strictly, and made into the lines that a client gets (headers.py)."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.fast_heads import Block, CachedHead
from gateway.proxy.heads.field_policy import FieldPolicy
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.headers import MessageHead, RawHeaders


class ResponseHead(MessageHead):
    """What the gateway read from an answer's head."""

    __slots__ = ("trailer", "upgrade")

    def __init__(self) -> None:
        super().__init__()
        # The protocols that it offers: a 426 has to name them (RFC 9110, 15.5.22).
        self.upgrade: Sequence[bytes] = ()
        # The values of Trailer: passed on only to those who take trailers.
        self.trailer: Sequence[bytes] = ()

    def lines_of_426(self) -> list[bytes]:
        """The lines with the protocols that the backend requires; of other answers they stop here (hop by hop)."""
        return [*self.lines, *(b"connection: upgrade\r\nupgrade: %b\r\n" % value for value in self.upgrade)]


def read_response(
    fields: RawHeaders, policy: FieldPolicy, version: str = "1.1", plain: CachedHead | None = None
) -> ResponseHead | Fault:
    """Check a response's header fields and prepare the lines to pass on; ``plain`` as in `requesthead.read_request`."""
    if plain is not None and plain.block is not None:
        passed = plain.block.response or _passed_response(plain.block, policy)
        if passed.known:
            return _known_response(plain, passed)
    head = ResponseHead()
    lines = head.lines
    nominated: set[bytes] | None = None
    for i, (name, value) in enumerate(fields):
        low = policy.name_back(name)
        if not low:
            if plain is not None:
                lines.append(plain.lines[i])
            else:
                lines += (name, b": ", value, b"\r\n")
        elif low == b"content-length":
            if not head.take_length(value, plain):
                return gateway_errors.BAD_RESPONSE
        elif low == b"transfer-encoding":
            if not head.take_coding(value, version):
                return gateway_errors.BAD_RESPONSE
        elif low == b"connection":
            if value != b"keep-alive" and (named := head.take_connection(value)):
                nominated = named | (nominated or set())
        elif low == b"trailer":
            head.trailer = (*head.trailer, value)
        elif low == b"upgrade":
            head.upgrade = (*head.upgrade, value)
    if head.chunked and head.content_length is not None:
        return gateway_errors.BAD_RESPONSE
    if nominated:
        head.drop(nominated)
    return head


class PassedResponse:
    """As `requesthead.PassedRequest`, of an answer; ``newest`` is what was made of it last."""

    __slots__ = ("known", "lines", "newest")

    def __init__(self, lines: bytes, *, known: bool) -> None:
        self.lines = [lines] if lines else []
        self.known = known
        self.newest: ResponseHead | None = None


def _passed_response(block: Block, policy: FieldPolicy) -> PassedResponse:
    """What becomes of a block of fields, as `requesthead` has it."""
    lines: list[bytes] = []
    known = True
    for i, (name, value) in enumerate(block.fields):
        low = policy.name_back(name)
        if not low:
            lines.append(block.lines[i])
        elif low in (b"trailer", b"transfer-encoding") or (low == b"connection" and value != b"keep-alive"):
            known = False
    passed = PassedResponse(b"".join(lines), known=known)
    block.response = passed
    return passed


def _known_response(plain: CachedHead, passed: PassedResponse) -> ResponseHead:
    """What `read_response` finds in fields that it has read before."""
    head = passed.newest
    if head is None or head.length_line != plain.length_line:
        head = passed.newest = ResponseHead()
        if plain.length >= 0:
            head.content_length = plain.length
            head.length_line = plain.length_line
        head.lines = passed.lines
    return head
