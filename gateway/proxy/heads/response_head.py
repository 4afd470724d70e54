"""An answer's head: checked strictly, and made into the lines that a client gets (headers.py)."""

from __future__ import annotations

from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.fast_heads import CachedHead, FieldBlock
from gateway.proxy.heads.field_policy import FieldPolicy
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RawHeaders, ResponseHead
from gateway.proxy.heads.passed_heads import PassedResponse


def read_response(
    fields: RawHeaders, policy: FieldPolicy, version: str = "1.1", plain: CachedHead | None = None
) -> ResponseHead | Fault:
    """Check a response's header fields and prepare the lines to pass on; ``plain`` as in `read_request`."""
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
            if plain is not None:
                head.take_known_length(plain.length, plain.length_line)
            elif not head.take_length(value):
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


def _passed_response(block: FieldBlock, policy: FieldPolicy) -> PassedResponse:
    """What becomes of a block of fields, as `request_head` has it."""
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
