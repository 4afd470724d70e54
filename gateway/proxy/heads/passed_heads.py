"""What the header rules make of fields that come again and again: kept with them (fast_heads.py), and made once.

Values only: request_head.py and response_head.py make and read them.
"""

from __future__ import annotations

from gateway.proxy.heads.message_head import ResponseHead


class PassedRequest:
    """What the rules make of a block of fields, from client or backend; ``known`` is false where that matters.

    ``lines`` are those that are passed on, ``rest`` follows the client's address: x-forwarded-proto (by whether the
    client came over TLS) and x-forwarded-host.
    """

    __slots__ = ("cookies", "host", "known", "lines", "rest")

    def __init__(self, host: bytes, cookies: list[bytes], lines: bytes, *, known: bool) -> None:
        self.host = host
        self.cookies = cookies
        self.lines = lines
        self.known = known
        forwarded_host = b"x-forwarded-host: %b\r\n" % host if host else b""
        self.rest = (
            b"\r\nx-forwarded-proto: http\r\n" + forwarded_host,
            b"\r\nx-forwarded-proto: https\r\n" + forwarded_host,
        )


class PassedResponse:
    """As `request_head.PassedRequest`, of an answer; ``newest`` is what was made of it last."""

    __slots__ = ("known", "lines", "newest")

    def __init__(self, lines: bytes, *, known: bool) -> None:
        self.lines = [lines] if lines else []
        self.known = known
        self.newest: ResponseHead | None = None
