"""The lines that few requests have besides, for one attempt: Upgrade, TE, Trailer, Expect, and Connection for these."""

from __future__ import annotations

from gateway.proxy.exchange import expect_continue
from gateway.proxy.exchange.request_body import RequestBody
from gateway.proxy.exchange.trailers import Trailers
from gateway.proxy.exchange.upgrade import Upgrade
from gateway.proxy.heads.request import Request


def rare_lines(
    request: Request, body: RequestBody, upgrade: Upgrade | None, trailers: Trailers | None, allowed: tuple[str, ...]
) -> bytes:
    """``allowed`` are the protocols that the present route may switch to."""
    head = request.head
    assert head is not None  # it is being sent
    options: list[bytes] = []
    lines: list[bytes] = []
    if upgrade is not None and (protocol := upgrade.choose(allowed)):
        request.keep_alive = False
        options.append(b"upgrade")
        lines.append(b"upgrade: %b\r\n" % protocol)
    if trailers is not None:
        trailers.of_answer.clear()
        options.append(b"te")
        lines.append(b"te: trailers\r\n")
        if head.chunked:
            lines += [b"trailer: %b\r\n" % value for value in trailers.announced]
    if options:
        lines.append(b"connection: %b\r\n" % b", ".join(options))
    if expect_continue.awaits_leave(head, body):
        lines.append(expect_continue.LINE)
    return b"".join(lines)
