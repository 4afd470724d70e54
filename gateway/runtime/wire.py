"""The one conversation between control and workers: typed messages over a Unix-domain stream socket.

Frames are a four-byte big-endian length followed by one MessagePack value. Tables and health go down, pushed; reports
come up, cumulative since the worker's boot, so that a lost or repeated one harms nothing. A worker that finds the
control plane dead keeps its last table and goes on counting; a control plane that comes back learns from `Hello` what
the workers are doing before it publishes anything.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

import msgspec

from gateway.core.stats.counts import EpochCounts
from gateway.core.traffic.table import RoutingTable

_LENGTH = struct.Struct(">I")
# A table of a thousand routes is under 1 MiB; more than this is a broken peer, not a message.
FRAME_BYTES_MAX = 64 << 20


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A worker introduces itself, once per connection. ``boot`` names this life of the process.

    The rest is of the table that it routes by: by route, the canary's weight, the stable backend, and the canary where
    there is one.
    """

    boot: str
    index: int
    pid: int
    epoch: int
    weights_bp: dict[str, int]
    stables: dict[str, str] = {}
    canaries: dict[str, str] = {}


class Applied(msgspec.Struct, frozen=True, tag=True):
    """The worker routes by this epoch from now on."""

    epoch: int


class RouteTotals(msgspec.Struct):
    """What one variant did on one route since the worker's boot, for metrics only (never for verdicts).

    ``answered`` counts responses to clients by status and the variant that produced them; ``tries`` counts what came
    of each upstream try by result (its class of core.stats.outcomes, ``stale`` or
    ``trial``).
    ``rescues_refused`` counts failures of the canary that stable did not answer, ``retries`` failed tries that the same
    backend was given once more, ``retries_refused`` those that it was not, and ``unserved`` requests that could not be
    tried for a want of the gateway's: each by reason.
    Latencies are histograms as in core.stats. ``samples`` counts the answers that were sampled, by what became of them
    (proxy.counting.response_sampler). ``queued`` are the times of attempts that had to wait for a connection;
    ``failed_at`` are the outcomes other than ok that count as evidence, by the URL of the endpoint and by class.
    ``request_sizes`` and ``response_sizes`` are bodies of answered requests, by their class (core.stats.histogram).
    ``mirrored`` are the copies of stable's requests for the canary, by result; ``mirror_shed`` those that were not
    made, by reason (proxy.routes.route_mirror), and ``mirror_pairs`` what came of both halves (core.stats.pairs).
    Of streams that count as evidence: ``first_token``, and ``per_token``, the mean time between two events after it.
    """

    route: str
    variant: int
    answered: dict[int, int] = msgspec.field(default_factory=dict)
    tries: dict[str, int] = msgspec.field(default_factory=dict)
    first_byte: dict[int, int] = msgspec.field(default_factory=dict)
    duration: dict[int, int] = msgspec.field(default_factory=dict)
    duration_us_sum: int = 0
    first_byte_us_sum: int = 0
    rescued: int = 0
    rescues_refused: dict[str, int] = msgspec.field(default_factory=dict)
    retries: dict[str, int] = msgspec.field(default_factory=dict)
    retries_refused: dict[str, int] = msgspec.field(default_factory=dict)
    unserved: dict[str, int] = msgspec.field(default_factory=dict)
    forced: int = 0
    samples: dict[str, int] = msgspec.field(default_factory=dict)
    queued: dict[int, int] = msgspec.field(default_factory=dict)
    queued_us_sum: int = 0
    request_sizes: dict[int, int] = msgspec.field(default_factory=dict)
    request_bytes_sum: int = 0
    response_sizes: dict[int, int] = msgspec.field(default_factory=dict)
    response_bytes_sum: int = 0
    failed_at: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    mirrored: dict[str, int] = msgspec.field(default_factory=dict)
    mirror_shed: dict[str, int] = msgspec.field(default_factory=dict)
    mirror_pairs: dict[str, int] = msgspec.field(default_factory=dict)
    first_token: dict[int, int] = msgspec.field(default_factory=dict)
    first_token_us_sum: int = 0
    per_token: dict[int, int] = msgspec.field(default_factory=dict)
    per_token_us_sum: int = 0


# Why a request's body was not kept for another try (proxy/body_store.py).
BODY_NOT_KEPT: Final = ("too_large", "memory_limit", "disk_limit", "disk_full", "disk_failed", "disk_slow")


class Exemplar(msgspec.Struct, frozen=True, array_like=True):
    """One attempt that stands for others like it: its result, how long it took, its trace, and when it ended (UTC)."""

    route: str
    variant: int
    result: str
    duration_us: int
    trace_id: str
    at_s: float


class Ejected(msgspec.Struct, frozen=True):
    """An endpoint that a worker's own traffic keeps out of rotation: why, and for how long until its next trial."""

    backend: str
    url: str
    reason: str
    lasts_s: float


class Report(msgspec.Struct, tag=True):
    """All a worker has counted since its boot, and how it is doing now.

    ``faults`` counts the answers that the gateway made itself, by reason (``no_route``, ``bad_request``, ...).
    """

    boot: str
    seq: int
    epoch: int
    evidence: list[EpochCounts]
    totals: list[RouteTotals]
    faults: dict[str, int]
    in_flight: int
    connections: int
    upstream_connections: int
    aborted: int = 0
    loop_lag_us_max: int = 0
    tunnels_open: int = 0
    # Further totals by name: tunnels, trailer fields passed and dropped, lines of the access log written and dropped,
    # request bodies that were not kept (``body_not_kept:REASON``), ejections (``ejected BACKEND URL REASON``).
    notes: dict[str, int] = msgspec.field(default_factory=dict)
    # The loop stood still for longer than deadlines can bear; accepting paused for want of descriptors; when the first
    # of the TLS certificates in use ends, in seconds since the epoch (0: no TLS).
    stalls: int = 0
    accept_pauses: int = 0
    tls_not_after_s: float = 0.0
    # Backends whose endpoints all look bad, so that all of them are used; and the URLs of endpoints, by backend, that
    # are used although probes get no answer, because they answer requests.
    panics: tuple[str, ...] = ()
    kept: dict[str, list[str]] = msgspec.field(default_factory=dict)
    # The endpoints that are ejected at this moment, or whose trial has not succeeded yet.
    ejected: tuple[Ejected, ...] = ()
    # What is held of request bodies at this moment, in memory and in files.
    body_memory_bytes: int = 0
    body_disk_bytes: int = 0
    # Of what ended since the report before: of each route and variant the slowest attempt, and one of each failure.
    exemplars: list[Exemplar] = msgspec.field(default_factory=list)


class SetTable(msgspec.Struct, frozen=True, tag=True):
    """Route by this table from the next request on."""

    table: RoutingTable


class EndpointDown(msgspec.Struct, frozen=True):
    """An endpoint that active probes found down. ``refused``: it said so itself; otherwise it only was silent."""

    backend: str
    url: str
    refused: bool = True


class SetHealth(msgspec.Struct, frozen=True, tag=True):
    """All endpoints that active probes found down."""

    down: tuple[EndpointDown, ...]


class Ack(msgspec.Struct, frozen=True, tag=True):
    """The report of this number has been taken in; retired epochs in it may be forgotten."""

    seq: int


Up = Hello | Applied | Report
Down = SetTable | SetHealth | Ack

_encoder = msgspec.msgpack.Encoder()
_decode_up = msgspec.msgpack.Decoder(Up)
_decode_down = msgspec.msgpack.Decoder(Down)


def encode(message: Up | Down) -> bytes:
    """One frame, ready to be written."""
    return frame(_encoder.encode(message))


def frame(body: bytes) -> bytes:
    """A body with its length before it."""
    return _LENGTH.pack(len(body)) + body


async def read_up(reader: asyncio.StreamReader) -> Up:
    """The next message of a worker; asyncio.IncompleteReadError at its end, ValueError when it is broken."""
    message: Up = _decode_up.decode(await read_frame(reader))
    return message


async def read_down(reader: asyncio.StreamReader) -> Down:
    """The next message of control; asyncio.IncompleteReadError at its end, ValueError when it is broken."""
    message: Down = _decode_down.decode(await read_frame(reader))
    return message


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The next body; asyncio.IncompleteReadError at the end, ValueError for one that is too long."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {length} bytes is over the limit of {FRAME_BYTES_MAX}")
    return await reader.readexactly(length)
