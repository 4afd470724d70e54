"""The section ``limits``: what one client, and all of them together, may take of a worker."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.config.section import YEAR_S, Bytes, Count, FilePath, Seconds, Section
from gateway.config.shape import Doc, Noun
from gateway.runtime.settings import Limits

_GIB = 1 << 30
_LIMITS = Limits()


class LimitsConfig(Section):
    """What one client, and all of them together, may take."""

    core = Limits

    head_bytes_max: Annotated[
        int,
        Field(ge=1024, le=1 << 20),
        Noun("a number of bytes"),
        Doc("Request line and headers together; more is answered with 431."),
    ] = _LIMITS.head_bytes_max
    header_fields_max: Annotated[
        int, Field(ge=1, le=10_000), Doc("Number of header fields; more is answered with 431.")
    ] = _LIMITS.header_fields_max
    line_bytes_max: Annotated[
        int,
        Field(ge=256, le=1 << 20),
        Noun("a number of bytes"),
        Doc("Length of the request line (answered with 414) and of each header line (431)."),
    ] = _LIMITS.line_bytes_max
    body_bytes_max: Annotated[
        Bytes | None, Doc("Size of a request body; more is answered with 413. `null`: no limit.")
    ] = _LIMITS.body_bytes_max
    connections_max: Annotated[Count, Doc("Open client connections of each worker.")] = _LIMITS.connections_max
    head_timeout_s: Annotated[
        Seconds,
        Doc(
            "Time to send a whole request head, from its first byte on; a connection that has not asked anything yet "
            "has as long in a drain."
        ),
    ] = _LIMITS.head_timeout_s
    keepalive_s: Annotated[Seconds, Doc("How long an idle client connection stays open.")] = _LIMITS.keepalive_s
    drain_timeout_s: Annotated[Seconds, Doc("How long requests under way may still take when the gateway stops.")] = (
        _LIMITS.drain_timeout_s
    )
    connections_per_client_max: Annotated[
        Count | None,
        Doc(
            "Open connections of one client address, for each worker; more are answered with 429. Trusted proxies are "
            "not counted; with `proxy_protocol` the client that it names is."
        ),
    ] = _LIMITS.connections_per_client_max
    body_rate_min: Annotated[
        int,
        Field(ge=0, le=_GIB),
        Noun("a number of bytes"),
        Doc(
            "Bytes per second that a request body has to come at while the gateway waits for it and no answer has "
            "begun; one that has fallen 20 seconds behind is answered with 408. `0`: `idle_s` and `total_s` alone "
            "bound it."
        ),
    ] = _LIMITS.body_rate_min
    drain_grace_s: Annotated[
        float,
        Field(ge=0, le=YEAR_S),
        Noun("a number of seconds"),
        Doc(
            "After a request to stop, requests are still accepted for this long while `/readyz` answers 503, so that a "
            "load balancer can take the gateway out first."
        ),
    ] = _LIMITS.drain_grace_s
    hang_timeout_s: Annotated[
        float,
        Field(ge=0, le=YEAR_S),
        Noun("a number of seconds"),
        Doc(
            "A worker whose event loop has not turned for so long is killed and replaced; its listening socket, and "
            "the connections queued on it, go to its successor. Time in which the machine or the supervisor stood "
            "still does not count. `0`: never."
        ),
    ] = _LIMITS.hang_timeout_s
    body_memory_bytes: Annotated[
        int,
        Field(ge=1 << 20, le=1 << 40),
        Noun("a number of bytes"),
        Doc(
            "What each worker holds of request bodies in memory. Slow ones may fill half of it. The first 16 KiB of a "
            "body are always taken."
        ),
    ] = _LIMITS.body_memory_bytes
    body_disk_bytes: Annotated[
        int,
        Field(ge=0, le=1 << 40),
        Noun("a number of bytes"),
        Doc(
            "What each worker holds of request bodies in temporary files, when memory should not hold more. `0`: no "
            "files."
        ),
    ] = _LIMITS.body_disk_bytes
    body_directory: Annotated[
        FilePath | None,
        Doc(
            "Where these files are. They have no name, and nothing is left of them. `null`: where the system has "
            "temporary files (`TMPDIR`). If that is memory (tmpfs), name a disk or make `body_disk_bytes` small."
        ),
    ] = None
