"""A request as a codec read it and as another one sends it on: method, target, head; no body, and no framing."""

from __future__ import annotations

from gateway.proxy.compiled import mypyc_attr
from gateway.proxy.heads.fast_heads import FirstLine
from gateway.proxy.heads.message_head import RequestHead


@mypyc_attr(free_list_len=1)
class Request:
    """One request. ``head`` is None until it was read without an error.

    ``version`` is the client's; ``line`` the first line where it was recognised (fast_heads.py). ``keep_alive``: its
    connection may go on after the answer; what finds that it may not clears it.
    """

    __slots__ = ("head", "keep_alive", "line", "method", "path", "target", "version")

    def __init__(self, method: bytes, version: str, *, keep_alive: bool) -> None:
        self.method = method
        self.version = version
        self.keep_alive = keep_alive
        self.target = self.path = b""
        self.line: FirstLine | None = None
        self.head: RequestHead | None = None
