"""What is asked of each proxy: ten kinds of exchange, each as the very bytes that both clients send.

The small POST is what an inference request looks like, and what the targets are about. The others each load one thing
that the small one hides: heads that never repeat, bodies towards the backend, bodies back, many small pieces, chunks of
a chat (few streams at once and many), and connections.
"""

from __future__ import annotations

from dataclasses import dataclass

MARK = b"@@@@@@@@@@@@@@@@"
"""Where this stands in a request, both clients put 16 hexadecimal digits that are others each time."""


@dataclass(frozen=True)
class Workload:
    """One kind of exchange."""

    name: str
    title: str
    body_bytes: int
    connections: int
    """Requests that the client keeps under way when it asks as fast as it is answered."""
    backend: str = "nginx"
    close: bool = False
    """A new connection for each request."""
    events: bool = False
    """The answer is a stream of events that carry the time at which they were sent."""
    varied: bool = False
    """Fields of the head are others in each request."""
    proxies: tuple[str, ...] = ()
    """Only these are measured; all where there is none."""

    @property
    def path(self) -> str:
        """The request's target."""
        return f"/{self.name}"

    def request(self) -> bytes:
        """One request as it goes over the wire."""
        body = b'{"inputs": "' + b"0" * (self.body_bytes - 14) + b'"}'
        lines = [
            f"POST {self.path} HTTP/1.1",
            "Host: models.test",
            "User-Agent: compare",
            "Accept: */*",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        lines += ["Connection: close"] if self.close else []
        mark = MARK.decode()
        lines += [f"Cookie: session={mark}", f"X-Span: {mark}-{mark}"] if self.varied else []
        return "\r\n".join([*lines, "", ""]).encode() + body


_ALL = (
    Workload("small", "JSON POST, 400 B in, 150 B out", 400, 32),
    Workload(
        "varied",
        "as small, with a cookie and a field that never repeat",
        400,
        32,
        varied=True,
        proxies=("nginx", "envoy", "relay", "source", "gateway"),
    ),
    # nginx answers with a constant before it has read the body, which is another exchange than the one meant here.
    Workload("upload", "64 KiB in, 1 KiB out", 65536, 16, backend="responder"),
    Workload("download", "1 KiB in, 1 MiB out", 1024, 16),
    Workload("sse", "100 server-sent events, 1 ms apart", 400, 16, backend="responder", events=True),
    Workload("tokens", "100 chunks of a chat, 1 ms apart, 16 streams", 400, 16, backend="responder", events=True),
    Workload("tokens256", "100 chunks of a chat, 1 ms apart, 256 streams", 400, 256, backend="responder", events=True),
    # Each is copied to a second backend, whose answer is read and thrown away; and the same route without copies.
    Workload("mirror", "as small, mirrored, no canary", 400, 32, proxies=("source", "gateway")),
    Workload("unmirrored", "as small, no canary", 400, 32, proxies=("source", "gateway")),
    Workload("connect", "JSON POST, 400 B in, 150 B out, a new connection each", 400, 32, close=True),
)
WORKLOADS = {workload.name: workload for workload in _ALL}
