"""The evidence of rollouts over time, for charts: bounded, thinned, and now and then written into the journal.

Rules:

1. A point a second at first. A series that is full loses every second point and takes new ones half as often, so a
   rollout of days costs no more than one of minutes. Where something was decided there is a point in any case.
2. A metric without any event in either version has no column: most classes of failures never occur.
3. Series of rollouts under way are all kept, of ended ones the newest `ENDED_MAX`.
4. Nothing here decides. A series is journaled every `SAVE_EVERY_S` seconds, when its rollout has ended, and when
   control stops; after a restart it goes on from there, with a gap where nothing was known.
"""

from __future__ import annotations

import math
import zlib
from array import array

import msgspec

from gateway.control.views import MetricSeries, RolloutSeries, RolloutView
from gateway.core.analysis.types import Finding
from gateway.core.rollout.types import Phase

POINTS_MAX = 240
ENDED_MAX = 50
# The columns of a metric, in the order of MetricSeries.
COLUMNS = ("log_e_bad", "log_e_ok", "effect", "low", "high", "margin_low", "margin_high")
SAVE_EVERY_S = 15.0
_EVERY_S = 1.0
# A longer silence is a gap in the chart.
_GAP_S = 5.0
_LATENCY, _SHARE = "p95_difference_us", "difference"


class StoredSeries(msgspec.Struct, array_like=True):
    """A series as the journal has it; columns are arrays' bytes. Later versions may add fields at the end."""

    every_s: float
    at_s: bytes
    percent: bytes
    log_e_bad: bytes
    metrics: dict[str, tuple[str, list[bytes]]]


class SeriesLog:
    """The series of all rollouts that are remembered."""

    def __init__(self) -> None:
        self._series: dict[str, EvidenceSeries] = {}

    def take(self, view: RolloutView, wall_s: float, *, decided: bool) -> None:
        """Take in what a rollout looks like now."""
        found = self._series.get(view.id)
        if found is None:
            found = self._series[view.id] = EvidenceSeries()
        found.take(view, wall_s, decided=decided)
        if decided:
            self._drop_oldest()

    def adopt(self, rollout_id: str, stored: bytes | None) -> None:
        """Go on with what the journal has of a rollout."""
        found = None if stored is None else EvidenceSeries.decode(stored)
        if found is not None:
            self._series[rollout_id] = found

    def to_save(self, rollout_id: str, wall_s: float, *, at_once: bool = False) -> bytes | None:
        """What is to be journaled of a rollout now, None for nothing new; ``at_once``: whatever the time."""
        found = self._series.get(rollout_id)
        return None if found is None else found.to_save(wall_s, at_once=at_once)

    def series(self, rollout_id: str) -> RolloutSeries:
        """One rollout's series; without points where none is remembered."""
        found = self._series.get(rollout_id)
        return RolloutSeries(rollout_id, _EVERY_S, (), (), (), ()) if found is None else found.view(rollout_id)

    def _drop_oldest(self) -> None:
        ended = [rollout_id for rollout_id, one in self._series.items() if one.ended]
        for rollout_id in ended[:-ENDED_MAX]:
            del self._series[rollout_id]


class EvidenceSeries:
    """One rollout's evidence: columns of equal length. What is not known is NaN."""

    def __init__(self) -> None:
        self.ended = False
        self._saved_s = -math.inf
        self._fresh = False
        self._every_s = _EVERY_S
        self._at_s = array("d")
        self._percent = array("f")
        self._log_e_bad = array("f")
        self._metrics: dict[str, MetricColumns] = {}

    def take(self, view: RolloutView, wall_s: float, *, decided: bool) -> None:
        """Take in a point, if it is time for one."""
        self.ended = Phase(view.phase).terminal
        analysis = view.analysis
        if analysis is None or (not decided and self._at_s and 0.0 <= wall_s - self._at_s[-1] < self._every_s):
            return
        if self._at_s and wall_s - self._at_s[-1] > max(_GAP_S, 3.0 * self._every_s):
            self._append(self._at_s[-1] + self._every_s, self._percent[-1], math.nan, ())
        self._append(wall_s, view.canary_percent, _finite(analysis.log_e_bad), analysis.findings)
        if len(self._at_s) > POINTS_MAX:
            self._thin()

    def _append(self, at_s: float, percent: float, log_e_bad: float, findings: tuple[Finding, ...]) -> None:
        self._fresh = True
        self._at_s.append(at_s)
        self._percent.append(percent)
        self._log_e_bad.append(log_e_bad)
        self._take_findings(findings)

    def _take_findings(self, findings: tuple[Finding, ...]) -> None:
        for finding in findings:
            columns = self._metrics.get(finding.metric)
            if columns is None:
                if not _has_events(finding):
                    continue
                columns = self._metrics[finding.metric] = MetricColumns(len(self._at_s) - 1)
            columns.take(finding)
        for columns in self._metrics.values():
            columns.pad(len(self._at_s))

    def _thin(self) -> None:
        self._every_s *= 2.0
        self._at_s, self._percent = _halved(self._at_s), _halved(self._percent)
        self._log_e_bad = _halved(self._log_e_bad)
        for columns in self._metrics.values():
            columns.thin()

    def to_save(self, wall_s: float, *, at_once: bool) -> bytes | None:
        """The series as the journal keeps it, where it is time and there is something new."""
        if not self._fresh:
            return None
        if not (at_once or self.ended) and 0.0 <= wall_s - self._saved_s < SAVE_EVERY_S:
            return None
        self._saved_s, self._fresh = wall_s, False
        return self.encode()

    def encode(self) -> bytes:
        """All of it, compressed."""
        metrics = {name: one.stored() for name, one in self._metrics.items()}
        columns = (self._at_s.tobytes(), self._percent.tobytes(), self._log_e_bad.tobytes())
        return zlib.compress(msgspec.msgpack.encode(StoredSeries(self._every_s, *columns, metrics)))

    @classmethod
    def decode(cls, stored: bytes) -> EvidenceSeries | None:
        """What `encode` wrote; None where it cannot be read (of another version, or another machine)."""
        try:
            found = msgspec.msgpack.decode(zlib.decompress(stored), type=StoredSeries)
            series = cls()
            series._every_s = found.every_s
            series._at_s.frombytes(found.at_s)
            series._percent.frombytes(found.percent)
            series._log_e_bad.frombytes(found.log_e_bad)
            series._metrics = {name: MetricColumns.of(*one) for name, one in found.metrics.items()}
        except (zlib.error, msgspec.DecodeError, ValueError):
            return None
        length = len(series._at_s)
        lengths = {len(series._percent), len(series._log_e_bad), *(one.length for one in series._metrics.values())}
        return series if lengths == {length} and length else None

    def view(self, rollout_id: str) -> RolloutSeries:
        """The series as the API shows it."""
        return RolloutSeries(
            rollout_id,
            self._every_s,
            tuple(round(at_s, 3) for at_s in self._at_s),
            tuple(round(value, 2) for value in self._percent),
            _shown(self._log_e_bad),
            tuple(columns.view(name) for name, columns in self._metrics.items()),
        )


class MetricColumns:
    """One metric's columns: both e-values' logarithms, the effect with its band, and the margins that it must keep."""

    def __init__(self, before: int) -> None:
        self._unit = "share"
        self._columns = tuple(array("f", [math.nan] * before) for _ in COLUMNS)

    @classmethod
    def of(cls, unit: str, columns: list[bytes]) -> MetricColumns:
        """What `stored` gave. Raises ValueError."""
        made = cls(0)
        made._unit = unit
        for column, data in zip(made._columns, columns, strict=True):
            column.frombytes(data)
        return made

    def stored(self) -> tuple[str, list[bytes]]:
        """The unit, and the columns as bytes."""
        return self._unit, [column.tobytes() for column in self._columns]

    @property
    def length(self) -> int:
        """How many points there are; -1 where the columns differ."""
        lengths = {len(column) for column in self._columns}
        return lengths.pop() if len(lengths) == 1 else -1

    def take(self, finding: Finding) -> None:
        """Take in what a finding says now."""
        details = finding.details
        name = _LATENCY if _LATENCY in details else _SHARE
        self._unit = "us" if name == _LATENCY else "share"
        values = (
            _finite(finding.log_e_bad),
            _finite(finding.log_e_ok),
            details.get(name, _difference(finding)),
            *(details.get(f"{name}{end}", math.nan) for end in ("_low", "_high")),
            details.get("margin_low", math.nan),
            details.get("margin_high", math.nan),
        )
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)

    def pad(self, length: int) -> None:
        """Fill up what has no finding now."""
        for column in self._columns:
            if len(column) < length:
                column.append(math.nan)

    def thin(self) -> None:
        """Lose every second point."""
        self._columns = tuple(_halved(column) for column in self._columns)

    def view(self, metric: str) -> MetricSeries:
        """The columns as the API shows them."""
        return MetricSeries(metric, self._unit, *(_shown(column) for column in self._columns))


def _has_events(finding: Finding) -> bool:
    return finding.stable_events + finding.canary_events > 0 or "stable_p50_us" in finding.details


def _difference(finding: Finding) -> float:
    """Canary minus stable, before intervals can be computed (decide/explaining.py); not of latencies' slices."""
    if "slices" in finding.details or finding.stable_rate is None or finding.canary_rate is None:
        return math.nan
    return finding.canary_rate - finding.stable_rate


def _halved(column: array[float]) -> array[float]:
    """Every second point, and the newest."""
    kept = column[::2]
    if len(column) % 2 == 0:
        kept[-1] = column[-1]
    return kept


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _shown(column: array[float]) -> tuple[float | None, ...]:
    """Four digits are more than a chart has pixels for."""
    return tuple(None if math.isnan(value) else float(f"{value:.5g}") for value in column)
