"""One probe of one endpoint: a GET of its readiness path, and what is known after it.

Rules:

1. What the backend said and what the prober could not find out are different results. A refused connection and an
   answer other than 2xx are the backend's own answer (``REFUSED``). No answer in time, a reset, an unreachable host and
   a failed handshake are its silence (``SILENT``): weaker, because a slow probe says little beside working traffic.
   The prober's own wants (descriptors, ports, memory, threads, a name server, its TLS files, a late event loop) say
   nothing about the backend at all (``UNKNOWN``).
2. An endpoint whose name has several addresses is ready when one of them is.
3. Only the head of the answer is read, within ``timeout_s`` as a whole; redirects are not followed.
4. The request carries the Host that the backend's traffic would carry (``host_header``).
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import re
import ssl
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.config.backends import ProbeConfig
from gateway.core.traffic.table import BackendTls, Endpoint
from gateway.runtime.client_tls import ClientTls
from gateway.runtime.resolver import AddressNotAllowedError, Name, look_up

_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([1-5][0-9]{2})(?: |\r?\n)")
_HEAD_BYTES_MAX: Final = 64 * 1024
# The loop may be late by this share of the time-out before a missing answer could be its own fault.
_LATE_SHARE_MAX: Final = 0.1
# What a want of the gateway's own is called in ``gateway_probe_unknown_total{reason}``.
OWN_WANTS: Final = {
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
    errno.EADDRNOTAVAIL: "ports",
    errno.EAGAIN: "ports",
    errno.ENOBUFS: "memory",
    errno.ENOMEM: "memory",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
}
REASONS: Final = (*dict.fromkeys(OWN_WANTS.values()), "late", "name", "tls_files", "threads", "internal")


class ProbeOutcome(enum.Enum):
    """What a probe found out; the later outweighs the earlier where a name's addresses differ."""

    REFUSED = 0
    SILENT = 1
    UNKNOWN = 2
    READY = 3


class ProbeResult(msgspec.Struct, frozen=True):
    """The outcome in words, and for an unknown one the name of what was wanting."""

    outcome: ProbeOutcome
    text: str
    reason: str = ""


class Target(msgspec.Struct, frozen=True):
    """One endpoint of one backend, and how it is asked."""

    backend: str
    endpoint: Endpoint
    probe: ProbeConfig
    tls: BackendTls | None = None
    host_header: str = "client"
    resolve_s: float = 10.0
    resolve_max_age_s: float = 3600.0
    # Where the endpoint's name may lead; None: anywhere.
    allow: tuple[str, ...] | None = None

    @property
    def host(self) -> str:
        """What the request says as Host: there is no client whose Host could be passed on."""
        return self.endpoint.authority if self.host_header in ("client", "endpoint") else self.host_header


class EndpointProbe:
    """Probes one target again and again; ``lag_s`` returns the total delay of the event loop so far."""

    def __init__(self, target: Target, lag_s: Callable[[], float]) -> None:
        self._target = target
        self._lag_s = lag_s
        endpoint = target.endpoint
        self._name = Name(endpoint.host, endpoint.port, target.resolve_s, target.resolve_max_age_s, look_up)
        self._tls: ClientTls | None = None

    async def ask(self) -> ProbeResult:
        """One probe."""
        target = self._target
        before_s = self._lag_s()
        try:
            result = await self._ask()
        except Exception as error:  # noqa: BLE001  # a fault of the prober says nothing about the backend
            result = _unknown("internal", f"the probe failed: {type(error).__name__}: {error}")
        late_s = self._lag_s() - before_s
        if result.outcome is ProbeOutcome.SILENT and late_s > _LATE_SHARE_MAX * target.probe.timeout_s:
            return _unknown("late", f"the gateway was {late_s:.2g} s late itself: {result.text}")
        return result

    async def _ask(self) -> ProbeResult:
        target = self._target
        timeout_s = target.probe.timeout_s
        self._name.resolve_s, self._name.max_age_s = target.resolve_s, target.resolve_max_age_s
        self._name.restrict(target.allow)
        if target.endpoint.tls and (wanting := await self._read_tls()):
            return wanting
        worst: ProbeResult | None = None
        try:
            async with asyncio.timeout(timeout_s):
                address = await self._name.address()
        except AddressNotAllowedError as error:
            return ProbeResult(ProbeOutcome.REFUSED, error.strerror or str(error))
        except TimeoutError:
            return _unknown("name", f"the name {target.endpoint.host} was not resolved in {timeout_s:g} s")
        except (OSError, UnicodeError) as error:
            return _unknown("name", str(getattr(error, "strerror", "") or error))
        try:
            async with asyncio.timeout(timeout_s):
                for left in range(self._name.count, 0, -1):
                    result = await self._ask_address(address)
                    if worst is None or result.outcome.value >= worst.outcome.value:
                        worst = result
                    if result.outcome is ProbeOutcome.READY or left == 1:
                        break
                    self._name.failed(address)
                    address = await self._name.address()
        except TimeoutError:
            return ProbeResult(ProbeOutcome.SILENT, f"no answer to {target.probe.path} in {timeout_s:g} s")
        assert worst is not None
        return worst

    async def _read_tls(self) -> ProbeResult | None:
        """Bring the TLS files up to date; what is wanting where there are none to go on with."""
        target = self._target
        try:
            async with asyncio.timeout(target.probe.timeout_s):
                if self._tls is None:
                    self._tls = await asyncio.to_thread(ClientTls, target.tls, target.backend)
                else:
                    await asyncio.to_thread(self._tls.refresh)
        except TimeoutError:
            return _unknown("tls_files", "the TLS files could not be read in time")
        except RuntimeError as error:
            return _unknown("threads", str(error))
        if self._tls.usable:
            return None
        return _unknown("tls_files", f"the TLS files cannot be used: {self._tls.error}")

    async def _ask_address(self, address: str) -> ProbeResult:
        target = self._target
        expected = (target.tls and target.tls.server_name) or target.endpoint.host
        try:
            reader, writer = await asyncio.open_connection(
                address,
                target.endpoint.port,
                limit=_HEAD_BYTES_MAX,
                ssl=None if self._tls is None else self._tls.context,
                server_hostname=None if self._tls is None else expected,
            )
            try:
                writer.write(
                    f"GET {target.probe.path} HTTP/1.1\r\nhost: {target.host}\r\naccept: */*\r\n"
                    "user-agent: canary-gateway-probe\r\nconnection: close\r\n\r\n".encode()
                )
                status = await _final_status(reader)
            finally:
                with contextlib.suppress(Exception):  # it is over in any case
                    writer.transport.abort()
        except ssl.SSLError as error:
            return ProbeResult(ProbeOutcome.SILENT, f"the TLS handshake failed: {error}")
        except ConnectionRefusedError:
            return ProbeResult(ProbeOutcome.REFUSED, "refused the connection")
        except ConnectionResetError:
            return ProbeResult(ProbeOutcome.SILENT, "reset the connection")
        except OSError as error:
            if error.errno in OWN_WANTS:
                return _unknown(OWN_WANTS[error.errno], f"the gateway could not connect: {error.strerror or error}")
            if isinstance(error, TimeoutError):
                raise
            return ProbeResult(ProbeOutcome.SILENT, f"cannot be reached: {error.strerror or error}")
        except MemoryError:
            return _unknown("memory", "the gateway is out of memory")
        if status == 0:
            return ProbeResult(ProbeOutcome.SILENT, f"closed the connection without an answer to {target.probe.path}")
        if status is None:
            return ProbeResult(ProbeOutcome.SILENT, f"gave no HTTP answer to {target.probe.path}")
        if 200 <= status < 300:
            return ProbeResult(ProbeOutcome.READY, f"answered {status} to {target.probe.path}")
        return ProbeResult(ProbeOutcome.REFUSED, f"answered {status} to {target.probe.path}")


async def _final_status(reader: asyncio.StreamReader) -> int | None:
    """The status of the answer whose head has come whole, interim ones passed over.

    0 where the connection ends before it; None for what is no HTTP.
    """
    taken = 0
    status = 0
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # longer than any line may be
            return None
        taken += len(line)
        if not line:  # the connection has ended
            return 0
        if not line.endswith(b"\n") or taken > _HEAD_BYTES_MAX:
            return None
        if not status:
            found = _STATUS.match(line)
            if found is None:
                return None
            status = int(found[1])
        elif line in (b"\r\n", b"\n"):
            if status >= 200:
                return status
            status = 0


def _unknown(reason: str, text: str) -> ProbeResult:
    return ProbeResult(ProbeOutcome.UNKNOWN, text, reason)
