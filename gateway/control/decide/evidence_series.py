"""The evidence of rollouts over time, for charts: bounded, thinned, and in memory alone.

Rules:

1. A point a second at first. A series that is full loses every second point and takes new ones half as often, so a
   rollout of days costs no more than one of minutes. Where something was decided there is a point in any case.
2. A metric without any event in either version has no column: most classes of failures never occur.
3. Series of rollouts under way are all kept, of ended ones the newest `ENDED_MAX`.
4. Nothing here decides. After a restart of the control process a series begins anew; the decision history and the
   numbers of each decision are in the journal.
"""

from __future__ import annotations

import math
from array import array

from gateway.control.views import MetricSeries, RolloutSeries, RolloutView
from gateway.core.analysis.types import Analysis, Finding
from gateway.core.rollout.types import Phase

POINTS_MAX = 240
ENDED_MAX = 50
# The columns of a metric, in the order of MetricSeries.
COLUMNS = ("log_e_bad", "log_e_ok", "effect", "low", "high", "margin_low", "margin_high")
_EVERY_S = 1.0
_LATENCY, _SHARE = "p95_difference_us", "difference"


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
        self._at_s.append(wall_s)
        self._percent.append(view.canary_percent)
        self._log_e_bad.append(_finite(analysis.log_e_bad))
        self._take_findings(analysis)
        if len(self._at_s) > POINTS_MAX:
            self._thin()

    def _take_findings(self, analysis: Analysis) -> None:
        for finding in analysis.findings:
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
