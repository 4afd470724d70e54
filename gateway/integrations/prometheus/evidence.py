"""Reads the counts of both versions from Prometheus, and hands on what counts as evidence.

Rules:

1. Only samples up to the moment at which the split was last seen in force are read: what came after may have been
   split otherwise. They are read the next time.
2. A Prometheus that is away, slow or answers nonsense starts nothing and ends nothing: what was scraped meanwhile is
   read when it is back, as long as the series go on. Until then the rollout holds (`stale_s`), and says why; its
   deadlines go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from gateway.config.actuators import REVISION, PrometheusConfig, TimeUnit, prometheus_token
from gateway.core.stats.counts import Counts
from gateway.core.stats.outcomes import by_status
from gateway.integrations.prometheus.client import PrometheusClient
from gateway.integrations.prometheus.counters import CounterReader, ScrapedSeries
from gateway.integrations.prometheus.counting import UNKNOWN_STATUS, Counted, Splits
from gateway.runtime.clock import Clock

_log = logging.getLogger("gateway.actuators")
_WINDOW_S = (120.0, 3600.0)
_UNIT_US = {TimeUnit.SECONDS: 1e6, TimeUnit.MILLISECONDS: 1e3}


class _RevisionCounters:
    """One revision's counters."""

    def __init__(self, revision: str, config: PrometheusConfig, classes: list[str]) -> None:
        self.revision = revision
        label = config.status_label
        apart = {"le"} | ({label} if label is not None else set())
        self.requests = CounterReader(apart)
        self.latencies = CounterReader(apart)
        self.counted = Counted(classes, label, _UNIT_US[config.latency_unit])


class PrometheusEvidence:
    """The counters of a route's two versions. ``add`` takes an epoch, its weight, and the new counts of both."""

    def __init__(
        self,
        config: PrometheusConfig,
        exempt_statuses: Sequence[int],
        clock: Clock,
        add: Callable[[int, int, Counts, Counts], None],
    ) -> None:
        """Raises BadValue for a token that is not there."""
        self._config = config
        self._classes = by_status(exempt_statuses)
        self._clock = clock
        self._add = add
        self._client = PrometheusClient(config.url, config.timeout_s, prometheus_token(config))
        self._versions: tuple[_RevisionCounters, _RevisionCounters] | None = None
        self._asked_s = 0.0
        self._unknown_said = False

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def step(self, stable: str, canary: str, splits: Splits, confirmed_s: float) -> str:
        """Count what is new; returns why there is nothing to judge by. Raises ExternalError."""
        versions = self._of(stable, canary)
        now_s = self._clock.wall_s()
        window_s = min(max(now_s - self._asked_s + self._config.stale_s, _WINDOW_S[0]), _WINDOW_S[1])
        await asyncio.gather(*(self._read(one, splits, confirmed_s, window_s) for one in versions))
        self._asked_s = now_s
        self._hand_on(versions, splits)
        return self._stale(versions, splits, now_s)

    def _of(self, stable: str, canary: str) -> tuple[_RevisionCounters, _RevisionCounters]:
        """The counters of these revisions; other revisions begin anew."""
        if self._versions is None or (self._versions[0].revision, self._versions[1].revision) != (stable, canary):
            self._versions = tuple(_RevisionCounters(one, self._config, self._classes) for one in (stable, canary))  # type: ignore[assignment]  # of two comes two
            self._asked_s = self._clock.wall_s()
        assert self._versions is not None
        return self._versions

    async def _read(self, version: _RevisionCounters, splits: Splits, confirmed_s: float, window_s: float) -> None:
        config = self._config
        requests = await self._samples(config.requests, version, confirmed_s, window_s)
        latencies = (
            [] if config.latency is None else await self._samples(config.latency, version, confirmed_s, window_s)
        )
        # Both were asked for before either is counted: an answer that fails loses nothing of the other.
        version.counted.requests(version.requests.take(requests), splits)
        version.counted.latencies(version.latencies.take(latencies), splits)

    async def _samples(
        self, selector: str, version: _RevisionCounters, confirmed_s: float, window_s: float
    ) -> list[ScrapedSeries]:
        found = await self._client.samples(selector.replace(REVISION, version.revision), window_s)
        until = (one._replace(samples=tuple(x for x in one.samples if x[0] <= confirmed_s)) for one in found)
        return [one for one in until if one.samples]

    def _hand_on(self, versions: tuple[_RevisionCounters, _RevisionCounters], splits: Splits) -> None:
        stable, canary = (version.counted.take() for version in versions)
        for epoch in sorted(stable.keys() | canary.keys()):
            split = splits.numbered(epoch)
            if split is not None:
                self._add(epoch, split.weight_bp, stable.get(epoch, Counts()), canary.get(epoch, Counts()))
        unknown = sum(version.counted.dropped[UNKNOWN_STATUS] for version in versions)
        if unknown and not self._unknown_said:
            self._unknown_said = True
            _log.error(
                "Prometheus: %d answers have no status in the label %s: set prometheus.status_label",
                *(unknown, self._config.status_label),
            )

    def _stale(self, versions: tuple[_RevisionCounters, _RevisionCounters], splits: Splits, now_s: float) -> str:
        split = splits.now
        if split is None:
            return ""
        for role, version in zip(("stable", "canary"), versions, strict=True):
            since_s = max(version.requests.newest_s, split.began_s)
            if now_s - since_s > self._config.stale_s:
                query = self._config.requests.replace(REVISION, version.revision)
                return f"Prometheus has had no new sample of {role} for {now_s - since_s:.0f} s: {query}"
        return ""
