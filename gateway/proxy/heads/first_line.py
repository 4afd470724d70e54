"""First lines that llhttp refuses or misreads, and what they were meant to be.

Rules:

1. A later minor version of HTTP/1 is read as 1.1 (RFC 9110, 6.2: a recipient processes a higher minor version as the
   highest one that it supports). llhttp knows 1.0 and 1.1 alone, so the line is rewritten and parsed once more.
2. A method that nobody knows is not malformed: 501 (RFC 9110, 9.1). Methods are case-sensitive: ``get`` is another one.
3. Another major version is 505; a client that begins with HTTP/2's preface is answered in frames of HTTP/2, since it
   could not read anything else (RFC 9113, 3.4, 5.4.1 and 7).
4. llhttp takes answers of RTSP and ICE for those of HTTP, which is wrong.

All of it is looked at after llhttp has failed, or before it sees an answer that fast_heads.py did not take.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"
_LINE: Final = re.compile(rb"\A[\r\n]*(" + _TOKEN + rb") +([^ \r\n]+) +HTTP/([0-9])\.([0-9])(?=\r|\n|\Z)")
_TORN: Final = re.compile(rb"\A[\r\n]*(" + _TOKEN + rb")(?: [^\r\n]*)?\Z")
_STATUS: Final = re.compile(rb"\A[\r\n]*HTTP/1\.([2-9])(?= |\Z)")
_BLANK: Final = re.compile(rb"[\r\n]*")
_INTERIM: Final = re.compile(rb"HTTP/1\.[0-9] 1(?!01)")
_HTTP2_PREFACE: Final = b"PRI * HTTP/2"
# What llhttp knows beside the methods of HTTP, or says of those that it does not.
_METHOD_ERRORS: Final = (
    "Invalid method encountered",
    "Expected space after method",
    "Invalid method for HTTP/x.x request",
)
_VERSION_ERROR: Final = "Invalid HTTP version"

_HTTP_1_1_REQUIRED: Final = 0x0D
_REFUSAL_TEXT: Final = gateway_errors.HTTP2_UNSUPPORTED.title.encode()
HTTP2_REFUSAL: Final = (
    # SETTINGS without a setting, which any HTTP/2 server has to begin with; GOAWAY with the reason as debug data.
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    + (8 + len(_REFUSAL_TEXT)).to_bytes(3, "big")
    + b"\x07\x00\x00\x00\x00\x00"
    + b"\x00\x00\x00\x00"
    + _HTTP_1_1_REQUIRED.to_bytes(4, "big")
    + _REFUSAL_TEXT
)
"""What is written to a client that speaks HTTP/2, before its connection is closed."""


def refusal(seen: bytes, error: str) -> Fault:
    r"""Why a request is refused whose head begins with ``seen``, and of which llhttp says ``error``.

    >>> refusal(b"BREW /pot HTTP/1.1\r\n", "Invalid method encountered").reason
    'method_unknown'
    >>> refusal(b"GET / HTTP/3.0\r\n", "Invalid HTTP version").reason, refusal(b"\x16\x03\x01", "").reason
    ('version_unsupported', 'bad_request')
    """
    if seen.startswith(_HTTP2_PREFACE):
        return gateway_errors.HTTP2_UNSUPPORTED
    line = _LINE.match(seen)
    if line is not None and line[3] != b"1":
        return gateway_errors.VERSION_UNSUPPORTED
    method = (line or _TORN.match(seen)) if error in _METHOD_ERRORS else None
    if method is not None:
        return gateway_errors.METHOD_UNKNOWN.because(f"the method {method[1].decode()!r} is unknown")
    return gateway_errors.BAD_REQUEST


def request_as_1_1(seen: bytes, error: str) -> bytes | None:
    r"""The same bytes with the version that is understood (rule 1); None where that is not what is wrong.

    >>> request_as_1_1(b"GET / HTTP/1.2\r\nHost: a\r\n", "Invalid HTTP version")
    b'GET / HTTP/1.1\r\nHost: a\r\n'
    """
    line = _LINE.match(seen) if error == _VERSION_ERROR else None
    if line is None or line[3] != b"1" or line[4] in b"01":
        return None
    return seen[: line.end() - 1] + b"1" + seen[line.end() :]


def answer_as_1_1(data: bytes, error: str) -> bytes | None:
    r"""As `request_as_1_1`, of an answer that begins with ``data``."""
    line = _STATUS.match(data) if error == _VERSION_ERROR else None
    return None if line is None else data[: line.end() - 1] + b"1" + data[line.end() :]


def is_no_answer(data: bytes) -> bool:
    r"""Whether an answer that begins with ``data`` is one of another protocol (rule 4), or interim ones and then such.

    >>> is_no_answer(b"RTSP/1.1 200 OK\r\n"), is_no_answer(b"HTTP/1.1 100 Continue\r\n\r\nICE/1.0 200 OK\r\n")
    (True, True)
    >>> is_no_answer(b"HT"), is_no_answer(b"HTTP/1.1 200 OK\r\n\r\nICE/1.0"), is_no_answer(b"HTTP/1.1 101 S\r\n\r\nx")
    (False, False, False)
    """
    at = 0
    while True:
        at = _BLANK.match(data, at).end()  # type: ignore[union-attr]  # it matches the empty string, too
        if data[at : at + 1] not in (b"", b"H"):
            return True
        # Only an interim answer has another one behind its head; what follows a 101 is no HTTP.
        if _INTERIM.match(data, at) is None:
            return False
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            return False
        at = end + 4


def behind_head(data: bytes) -> bytes:
    r"""What follows the head that ``data`` begins with.

    >>> behind_head(b"\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2")
    b'HTTP/1.1 2'
    """
    at = _BLANK.match(data).end()  # type: ignore[union-attr]  # it matches the empty string, too
    return data[at:].partition(b"\r\n\r\n")[2]
