"""The one interface behind which a kind of metric lives. A new kind is a file here and its line in registry.py.

Rules:

1. A kind holds the tests of all its metrics (outcome classes share their trials, so they are tested together). What it
   remembers is its own: a frozen value that msgspec can write, under the kind's name in `AnalysisState.tests`.
2. It is asked in this order: `metrics` (what of a spec is its), `fresh`, then at each look `take` and `measure`, at
   promotion `baked`, and `finding` when somebody wants to read.
3. A look takes numbers only. `finding` gives all that a sentence about a metric needs, as numbers; sentences are made
   in show/.
4. ``whole`` is the state of the analysis after the look; a kind finds its own part with `own`.
"""

from __future__ import annotations

import abc
import enum
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from gateway.core.analysis.bursts.past import Weather
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.findings import MetricFinding, Needed, Share
from gateway.core.analysis.spec import AnalysisSpec, Mode
from gateway.core.analysis.state import AnalysisState
from gateway.core.analysis.types import Verdict
from gateway.core.types import Unjudged

S = TypeVar("S")

# A bet of a rate in a bake: what happens in a second is one.
TICK_S = 1.0
# An epoch may close its last batch beside the newest one's.
_SPARE_BETS = 8


class Role(enum.Enum):
    """What a metric may do.

    COMPARED: convict and be proven; LIMIT: convict only (an absolute limit); HOLD: hold a PASS only; CHECK: stop the
    experiment itself.
    """

    COMPARED = enum.auto()
    LIMIT = enum.auto()
    HOLD = enum.auto()
    CHECK = enum.auto()


class Metric(NamedTuple):
    """One metric of a spec. ``share`` is its part of alpha_rollback (budget.py); a CHECK has its own ``alpha``.

    ``group``: metrics that share the answers out among them (silence.py).
    """

    name: str
    mode: Mode
    share: float
    role: Role = Role.COMPARED
    group: str = ""
    alpha: float = 0.0


class Tick(NamedTuple):
    """What one look brings: new counts by epoch, and the experiment's epochs still in evidence, ascending.

    ``needed`` is the log E_bad at which each metric convicts by itself; ``every_s`` the least time between two bets of
    a bake (0 during the climb); ``warm``: the canary's latencies are evidence (evidence/warmup.py). ``weather``: what
    was known of stable's bad moments before the rollout, by failure class (bursts/past.py).
    """

    spec: AnalysisSpec
    at_s: float
    arrivals: list[Arrival]
    live: list[int]
    needed: Mapping[str, float]
    every_s: float = 0.0
    warm: bool = True
    weather: Mapping[str, Weather] = {}


class Measure(NamedTuple):
    """One metric at one moment: log E of both tests, and how many units (requests, slices) could speak.

    ``present``: there are data of either version, so that one in mode ``auto`` takes part.
    """

    log_e_bad: float
    log_e_ok: float
    units: int
    present: bool


_NONE = Share()


class Standing(NamedTuple):
    """What one metric says to the verdict. ``convicts``: its E counts towards FAIL."""

    metric: str
    verdict: Verdict
    convicts: bool
    decides: bool
    log_e_bad: float
    log_e_ok: float
    needed: Needed
    role: Role = Role.COMPARED
    unjudged: Unjudged | None = None

    @property
    def must_pass(self) -> bool:
        """Whether PASS waits for this metric's proof: limits prove nothing."""
        return self.decides and self.role in (Role.COMPARED, Role.HOLD)

    def finding(self, stable: Share = _NONE, canary: Share = _NONE, **numbers: Any) -> MetricFinding:
        """The metric's finding: what it says to the verdict, and its kind's own numbers (fields of `MetricFinding`)."""
        return MetricFinding(
            metric=self.metric,
            verdict=self.verdict,
            decides=self.decides,
            log_e_bad=self.log_e_bad,
            log_e_ok=self.log_e_ok,
            needed=self.needed,
            stable=stable,
            canary=canary,
            **numbers,
        )


class MetricKind(abc.ABC, Generic[S]):
    """A kind of metric; ``state_type`` is what msgspec reads its state as."""

    name: ClassVar[str]
    state_type: ClassVar[Any]

    @abc.abstractmethod
    def metrics(self, spec: AnalysisSpec) -> tuple[Metric, ...]:
        """What a spec asks of this kind, in the order of the report; without those that are off."""

    @abc.abstractmethod
    def fresh(self, spec: AnalysisSpec) -> S:
        """The state before any evidence: one unit of wealth in every test."""

    @abc.abstractmethod
    def baked(self, state: S, spec: AnalysisSpec, bake_s: float) -> S:
        """The state at promotion, for a bake of this length: new tests, what was learnt stays."""

    @abc.abstractmethod
    def take(self, state: S, tick: Tick) -> S:
        """The state after one look's evidence."""

    @abc.abstractmethod
    def log_e_bad(self, whole: AnalysisState, metric: str) -> float:
        """log of E against "not worse"."""

    @abc.abstractmethod
    def log_e_ok(self, whole: AnalysisState, metric: str) -> float:
        """log of E against "worse by the margin"; 0 for what proves nothing good."""

    @abc.abstractmethod
    def finding(self, whole: AnalysisState, standing: Standing) -> MetricFinding:
        """One metric's finding in numbers."""

    @abc.abstractmethod
    def units(self, whole: AnalysisState, metric: str) -> tuple[int, bool]:
        """How many units could speak, and whether there are data of either version (see `Measure`)."""

    def measure(self, whole: AnalysisState, metric: Metric, known: dict[int, tuple[float, float]]) -> Measure:
        """One metric at this moment; ``known`` is the kind's own from one metric to the next of a look."""
        units, present = self.units(whole, metric.name)
        return Measure(self.log_e_bad(whole, metric.name), self.log_e_ok(whole, metric.name), units, present)

    def own(self, whole: AnalysisState) -> S:
        """This kind's part of the state."""
        state: S = whole.tests[self.name]
        return state


def bets_in(bake_s: float, tick_s: float) -> int:
    """How many bets of one in ``tick_s`` a bake has room for."""
    return math.ceil(bake_s / tick_s) + _SPARE_BETS
