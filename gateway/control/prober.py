"""Active health: each endpoint is asked on a schedule; ``rise`` good answers make it up, ``fall`` bad ones down.

An endpoint starts as up, so that a gateway without an answer yet does not refuse traffic; its first good or bad answers
settle it. One behind TLS is verified as the workers verify it, by the backend's own files (runtime/clienttls.py). Only
the status is read: redirects are not followed, and a body without an end costs nothing. What came in over the API is
asked only where the configuration file lets a backend be (core.traffic.addresses).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping

import httpx

from gateway.config.schema import BackendConfig, ProbeConfig
from gateway.core.traffic.addresses import refusals
from gateway.core.traffic.table import Backend, BackendTls, Endpoint
from gateway.runtime.clienttls import ClientTls

_log = logging.getLogger("gateway.control")
# A cancelled request can leave its slot in httpx's pool for good; without a limit that starves nobody.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=0)


class Health:
    """What is known of one endpoint. ``up`` is None where no probe is configured."""

    def __init__(
        self, backend: str, endpoint: Endpoint, probe: ProbeConfig | None, tls: BackendTls | None = None
    ) -> None:
        self.backend = backend
        self.endpoint = endpoint
        self.probe = probe
        self.tls = tls
        self.up: bool | None = None if probe is None else True
        self.last_answer = ""
        # Whether what is said of it has been asked, and is not only what it began as.
        self.settled = probe is None
        self._streak = 0
        self._agreeing = 0

    @property
    def asked(self) -> tuple[object, ...]:
        """Who is asked, and how."""
        return self.backend, self.endpoint, self.probe, self.tls

    def heard(self, good: bool) -> bool:
        """Take in one answer; True when it turned the endpoint."""
        assert self.probe is not None
        if good == self.up:
            self._streak = 0
            self._agreeing += 1
            self.settled = self.settled or self._agreeing >= self.probe.rise
            return False
        self._agreeing = 0
        self._streak += 1
        if self._streak < (self.probe.rise if good else self.probe.fall):
            return False
        self.up = good
        self.settled = True
        self._streak = 0
        return True


class Prober:
    """Probes every endpoint of every backend that wants it."""

    def __init__(
        self,
        backends: dict[str, BackendConfig],
        on_turn: Callable[[Health], None],
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_turn = on_turn
        # Called once, when every endpoint has been asked often enough to be known.
        self._on_settled: Callable[[], None] | None = on_settled
        self.health = _unknown(backends)
        self._changed = asyncio.Event()
        self._backends: Mapping[str, Backend] = {}

    def guard(self, backends: Mapping[str, Backend]) -> None:
        """Ask these backends where they may be from now on."""
        self._backends = backends

    @property
    def down(self) -> tuple[str, ...]:
        """The URLs of the endpoints that are down."""
        return tuple(health.endpoint.url for health in self.health if health.up is False)

    def watch(self, backends: dict[str, BackendConfig]) -> None:
        """Probe these from now on; what is known of an endpoint that stays, with the same probe, stays known."""
        known = {one.asked: one for one in self.health}
        self.health = [known.get(one.asked, one) for one in _unknown(backends)]
        self._changed.set()

    async def run(self) -> None:
        """Probe for ever."""
        watchers: dict[Health, asyncio.Task[None]] = {}
        async with (
            httpx.AsyncClient(follow_redirects=False, trust_env=False, limits=_LIMITS) as client,
            asyncio.TaskGroup() as group,
        ):
            while True:
                self._changed.clear()
                for gone in [health for health in watchers if health not in self.health]:
                    watchers.pop(gone).cancel()
                for health in self.health:
                    if health.probe is not None and health not in watchers:
                        watchers[health] = group.create_task(self._watch(client, health, health.probe))
                await self._changed.wait()

    async def _watch(self, client: httpx.AsyncClient, health: Health, probe: ProbeConfig) -> None:
        url = health.endpoint.url + probe.path
        tls = await asyncio.to_thread(ClientTls, health.tls, health.backend) if health.endpoint.tls else None
        while True:
            try:
                if tls is None:
                    heard = await self._heard(client, health, probe)
                else:
                    await asyncio.to_thread(tls.refresh)
                    async with httpx.AsyncClient(verify=tls.context, trust_env=False, limits=_LIMITS) as over_tls:
                        heard = await self._heard(over_tls, health, probe)
            except Exception:  # noqa: BLE001  # a probe that cannot even be sent must not end all the others
                _log.exception("cannot probe %s", url)
                heard = "no probe could be sent"
            if health.heard(not heard):
                health.last_answer = f"GET {probe.path}: {heard or 'well'}"
                self._on_turn(health)
            if self._on_settled is not None and all(one.settled for one in self.health):
                tell, self._on_settled = self._on_settled, None
                tell()
            await asyncio.sleep(probe.interval_s)

    async def _heard(self, client: httpx.AsyncClient, health: Health, probe: ProbeConfig) -> str:
        backend = self._backends.get(health.backend)
        allow = None if backend is None else backend.allow(health.endpoint)
        expected = None if health.tls is None else health.tls.server_name
        if allow is None:
            return await _ask(client, health.endpoint.url + probe.path, probe.timeout_s, expected=expected)
        return await _ask_guarded(client, health.endpoint, probe, allow, expected)


def _unknown(backends: dict[str, BackendConfig]) -> list[Health]:
    return [
        Health(name, endpoint, backend.probe, None if backend.tls is None else backend.tls.table())
        for name, backend in backends.items()
        for endpoint in backend.endpoints
    ]


async def _ask_guarded(
    client: httpx.AsyncClient, endpoint: Endpoint, probe: ProbeConfig, allow: tuple[str, ...], expected: str | None
) -> str:
    """As `_ask`, at the addresses that the name may lead to: it is looked up here, and nowhere else."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(probe.timeout_s):
            entries = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
            refused = refusals(endpoint.host, found, allow)
            heard = f"{endpoint.host} leads where no backend may be: {'; '.join(refused.values())}"
            for address in found:
                if heard and address not in refused:
                    there = Endpoint(address, endpoint.port, endpoint.tls)
                    heard = await _ask(client, there.url + probe.path, probe.timeout_s, endpoint, expected)
            return heard
    except TimeoutError:
        return f"no answer in {probe.timeout_s:g} s"
    except (OSError, UnicodeError) as error:
        return f"cannot resolve {endpoint.host}: {error}"


async def _ask(
    client: httpx.AsyncClient,
    url: str,
    timeout_s: float,
    named: Endpoint | None = None,
    expected: str | None = None,
) -> str:
    """What is wrong with the answer; empty when it is well.

    ``named`` is the endpoint that the URL is an address of, ``expected`` the name in its certificate, if it is another.
    """
    headers, extensions = {"connection": "close"}, {}
    if named is not None:
        headers["host"], extensions["sni_hostname"] = named.authority, named.host
    if expected is not None:
        extensions["sni_hostname"] = expected
    try:
        # httpx's timeouts are per operation; this one is for the whole head, however it drips in.
        async with (
            asyncio.timeout(timeout_s),
            client.stream("GET", url, headers=headers, timeout=timeout_s, extensions=extensions) as response,
        ):
            return "" if response.is_success else f"answered {response.status_code}"
    except TimeoutError:
        return f"no answer in {timeout_s:g} s"
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
