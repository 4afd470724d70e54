"""What the controller keeps of one route: its rollout, its evidence so far, and the last look at it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from collections.abc import Container, Mapping
from typing import NamedTuple

import msgspec

from gateway.config.build import analysis_spec, plan
from gateway.config.core_values import core_value
from gateway.config.routes import RouteConfig
from gateway.control.decide import explaining
from gateway.control.decide.failure_places import Tally
from gateway.control.decide.liveness import Liveness
from gateway.control.decide.rollout_records import RolloutRecord
from gateway.control.journal.rows import NEVER, HandWeight, Roles, RoutePast, Snapshot
from gateway.control.journal.store import Journal
from gateway.control.views import BadMoments, RolloutView
from gateway.control.workers.table_publisher import RouteAssignment
from gateway.core.analysis import Analysis, AnalysisState, Look, bake, budget, fresh_state, paired, restore
from gateway.core.analysis.bursts.past import Weather, weather
from gateway.core.analysis.paired import PairedState
from gateway.core.analysis.show import sentences
from gateway.core.analysis.spec import Mode
from gateway.core.errors import EvidenceError, JournalError, NotFoundError
from gateway.core.rollout import Analysed, Phase, Rollout, allowed, waiting_for
from gateway.core.stats.outcomes import FAILURES
from gateway.core.traffic.table import Mirroring
from gateway.core.types import Unjudged, Why, weight_bp_from_percent

_log = logging.getLogger("gateway.control")


class PendingIncrease(NamedTuple):
    """More exposure that waits for its turn and for the journal: since when, and what is set when it is given up."""

    since_s: float
    given_up: asyncio.Future[None]


class RouteState:
    """One route under control. While a rollout is active, ``analysis_state`` is never None.

    ``rollout`` is the state in force. ``decided`` is the one that the next event meets: the same, but while more
    exposure waits for the journal it is the state after that. ``turn`` is the lock of what waits so. ``frozen``:
    stable answers nothing, so that no verdict can be given.
    """

    def __init__(self, config: RouteConfig) -> None:
        self.config = config
        self.name = config.name
        self.spec = analysis_spec(config)
        self.plan = plan(config)
        self.rollout = Rollout()
        self.decided = self.rollout
        self.turn = asyncio.Lock()
        self.pending: set[PendingIncrease] = set()
        self.promoted: Roles | None = None
        self.lowered_by_hand = 0
        self.analysis_state: AnalysisState | None = None
        # Of the mirror step, while it is in force: then it decides, and not the state above.
        self.paired: PairedState | None = None
        self.look: Look | None = None
        self.last_analysis: Analysed | None = None
        self.stable_liveness = Liveness()
        self.frozen = False
        # Why the counts of a route that something else splits are no evidence now.
        self.external_trouble = ""
        self.first_epoch = 0
        self.announced_s = 0.0
        self.snapshot_s = 0.0
        # Which metrics have nothing to compare, and when that was looked up.
        self.unjudged: dict[str, Unjudged] = {}
        self.unjudged_s = -math.inf
        # Which outputs of the models are compared, the protocol they are in, what the events stand for, and how often
        # that was chosen anew.
        self.compared = self.protocol = ""
        self.meanings: dict[str, str] = {}
        self.generation: int | None = None
        self.silent_alarmed: tuple[str, ...] = ()
        # Canary requests that were forced before the rollout began.
        self.forced_before = 0
        # What stable did while it was served, counted from this epoch on, and when it last answered a request.
        self.past = RoutePast()
        self.past_epoch = 0
        # What the workers had counted of failures by endpoint when the rollout was first judged; None before that.
        self.tally_before: Tally | None = None
        self.answered_s = -math.inf

    @property
    def analysis(self) -> Analysis | None:
        """The last analysis, with its sentences."""
        return None if self.look is None else self.look.analysis

    @property
    def stable(self) -> str:
        """The route's stable backend: the last one promoted over the configured one, else that one."""
        return self.configured if self.promoted is None else self.promoted.stable

    @property
    def configured(self) -> str:
        """The configured stable backend; empty where there is none yet."""
        return self.config.stable or ""

    @property
    def canary(self) -> str | None:
        """The route's canary backend: the configured one, unless it has become stable."""
        return None if self.config.canary == self.stable else self.config.canary

    def assignment(self, weight_bp: int) -> RouteAssignment:
        """How the route is served with this weight."""
        return RouteAssignment(self.stable, self.canary, weight_bp, self.mirror)

    @property
    def mirror(self) -> Mirroring:
        """How much of the route is mirrored: as configured, or as the rollout's mirror step wants."""
        configured, step = core_value(self.config.mirror, Mirroring), self.rollout.mirror
        share_bp = configured.share_bp if step is None else max(configured.share_bp, step.share_bp)
        return msgspec.structs.replace(configured, share_bp=share_bp)

    @property
    def weather(self) -> dict[str, Weather]:
        """What is known by now of stable's bad moments, by failure class."""
        classes = self.past.classes
        if not classes:
            return {}
        known = {name: weather(one) for name, one in classes.items()}
        return {name: known.get(name, known[NEVER]) for name in FAILURES}

    @property
    def bad_moments(self) -> tuple[BadMoments, ...]:
        """What is known by now of stable's bad moments, of the classes in which it ever failed."""
        return tuple(
            BadMoments(name, w.known_s, w.moments, w.per_hour, w.mean_s, w.longest_s, one.rate)
            for name, one, w in ((name, one, weather(one)) for name, one in sorted(self.past.classes.items()))
            if name != NEVER
        )

    @property
    def stable_known_s(self) -> float:
        """For how long stable's failures have been watched."""
        return max((one.known_s for one in self.past.classes.values()), default=0.0)

    @property
    def active(self) -> bool:
        """Whether there is a rollout to judge."""
        return self.rollout.phase.active

    @property
    def deciding(self) -> bool:
        """Whether there is a rollout that a command would meet, though its start may not be journaled yet."""
        return self.decided.phase.active

    @property
    def canary_requests(self) -> int:
        """The experiment's canary requests since the rollout began, without those of the plan's warm-up.

        Of the mirror step: the requests that both versions have met.
        """
        if self.paired is not None:
            return self.paired.pairs
        if self.analysis_state is None or self.rollout.phase is Phase.WARMING:
            return 0
        return self.analysis_state.canary_requests

    @property
    def remembered_epoch(self) -> int:
        """The newest epoch in the evidence so far; 0 without one."""
        if self.analysis_state is None:
            return 0
        intake = self.analysis_state.intake
        return max([0, intake.left, *intake.epochs])

    def begin(self, first_epoch: int, rollout: Rollout) -> None:
        """A rollout or its warm-up begins; so does its evidence, with the epoch that the start itself publishes."""
        explaining.prepare()
        before, self.analysis_state = self.analysis_state, self._fresh(rollout)
        self.paired = self._fresh_pairs(rollout)
        if before is not None and rollout.rollout_id == self.rollout.rollout_id:
            # The canary was warming up already.
            self.analysis_state = msgspec.structs.replace(self.analysis_state, warmup=before.warmup)
        self.look = None
        self.last_analysis = None
        self.tally_before = None
        self.first_epoch = first_epoch

    def bake(self, bake_s: float) -> None:
        """The canary is promoted but for a holdout: from now on it is watched, no longer proven."""
        if self.analysis_state is not None and not self.analysis_state.baking:
            self.analysis_state = bake(self.analysis_state, bake_s)

    def adopt(self, rollout: Rollout, snapshot: Snapshot | None, analysis: Analysis | None) -> None:
        """Go on where the journal left off. The promise of a rollout under way is the one it was started with."""
        self.rollout = self.decided = rollout
        self.analysis_state = self._restored(snapshot) or self._fresh(rollout)
        self.paired = self._fresh_pairs(rollout)
        if rollout.phase is Phase.BAKING:
            self.bake(rollout.plan.bake_s)
        self.look = None if analysis is None else Look.of(analysis)

    def _fresh(self, rollout: Rollout) -> AnalysisState:
        """No evidence yet, by what this rollout promises in its present phase."""
        spec = self.spec
        if rollout.plan.mirror is not None:
            spec = budget.beside_mirror(spec)
        if rollout.plan.warmup_s > 0.0:
            warming = rollout.phase is Phase.WARMING
            spec = budget.while_warming(spec) if warming else budget.after_warming(spec)
            if warming:
                return fresh_state(spec, self.weather)
        return fresh_state(budget.for_bake(spec, rollout.plan.bake_s), self.weather)

    def _fresh_pairs(self, rollout: Rollout) -> PairedState | None:
        """No pairs yet, while the mirror step is in force."""
        return None if rollout.mirror is None else paired.fresh(rollout.mirror.compare)

    def _restored(self, snapshot: Snapshot | None) -> AnalysisState | None:
        if snapshot is None:
            return None
        try:
            return restore(snapshot.analysis_state)
        except EvidenceError as error:
            problem = str(error)
        # Without its past the judge protects a little less; with a past that it cannot read, not at all.
        _log.error(
            "rollout %s: its saved evidence cannot be used, starting to collect again: %s", snapshot.rollout_id, problem
        )
        return None

    def concerns_present_backends(self) -> bool:
        """Whether the last rollout was about the backends that the configuration names now."""
        if self.rollout.swapped:
            return self.rollout.canary == self.stable
        return (self.rollout.stable, self.rollout.canary) == (self.stable, self.canary)

    def forget(self) -> None:
        """The last rollout is history: the configuration speaks of other backends now."""
        self.rollout = self.decided = Rollout()
        self.analysis_state = None
        self.paired = None
        self.look = None

    def configure(self, config: RouteConfig, backends: Container[str]) -> bool:
        """Another configuration; a rollout that is under way goes on by its own plan and spec.

        A promoted backend stays stable as long as the configuration names the stable backend of then. Returns
        whether that has ended.
        """
        self.config = config
        self.spec = analysis_spec(config)
        self.plan = plan(config)
        ended = self.promoted is not None and (
            self.promoted.configured != self.configured or self.promoted.stable not in backends
        )
        if ended:
            self.promoted = None
        # What waits for the journal is no history yet.
        if not self.active and self.decided is self.rollout and not self.concerns_present_backends():
            self.forget()
        return ended

    def first_weight_bp(self, by_hand: HandWeight | None, live_bp: int | None) -> int:
        """The weight to begin with after a (re)start: what is wanted, but not more than is live (None: unknown)."""
        if self.canary is None or self.rollout.swapped:
            return 0
        # The configuration's weight was meant for the backends that it names.
        wanted_bp = weight_bp_from_percent(self.config.canary_percent) if self.stable == self.configured else 0
        if self.rollout.phase is not Phase.IDLE:
            wanted_bp = self.rollout.weight_bp if self.rollout.canary == self.canary else 0
        present = (self.stable, self.canary)
        if by_hand is not None and not self.active and (by_hand.stable, by_hand.canary) == present:
            wanted_bp = by_hand.weight_bp
        return wanted_bp if live_bp is None else min(wanted_bp, live_bp)

    def view(self, record: RolloutRecord) -> RolloutView:
        """The view of one of the route's rollouts."""
        if self.rollout.rollout_id != record.rollout.rollout_id:
            return record.view(record.rollout, record.analysis, None)
        waiting = (
            waiting_for(self.rollout, self.last_analysis) if self.last_analysis is not None and self.active else ""
        )
        analysis = self.analysis or record.analysis
        if analysis is not None and self.analysis_state is not None and self.paired is None:
            analysis = explaining.explained(self.analysis_state, analysis, forecast=self.active)
        view = record.view(self.rollout, analysis, self.canary_requests, waiting)
        view = dataclasses.replace(view, allowed=allowed(self.rollout))
        if not self.active:
            return view
        return dataclasses.replace(
            view,
            warnings=self.warnings(),
            protocol=self.protocol,
            compared=self.compared,
            meanings=self.meanings,
        )

    @property
    def silent(self) -> Mapping[str, Unjudged]:
        """The deciding metrics that cannot get data now, and why."""
        if self.look is not None:
            return self.look.silent
        deciding = {event.name for event in self.spec.events if event.mode is Mode.DECIDE}
        return {name: one for name, one in self.unjudged.items() if name in deciding and one.why is Why.NEVER}

    def warnings(self) -> tuple[str, ...]:
        """What keeps the rollout from being promoted, a sentence each."""
        return tuple(filter(None, (self.external_trouble, sentences.unjudged(self.silent))))


def saved_analysis(snapshot: Snapshot) -> AnalysisState | None:
    """What the analysis of a past rollout knew, to be shown; None where it cannot be read any more."""
    try:
        return restore(snapshot.analysis_state)
    except EvidenceError:
        return None


def find_route(routes: Mapping[str, RouteState], name: str) -> RouteState:
    """The route of that name, or NotFoundError."""
    try:
        return routes[name]
    except KeyError:
        known = ", ".join(sorted(routes))
        raise NotFoundError(f"no route is named {name!r}; there are: {known}") from None


class SavedRoute(msgspec.Struct):
    """What the journal has of one route, or the damage because of which it is not used."""

    roles: Roles | None = None
    rollout: Rollout | None = None
    snapshot: Snapshot | None = None
    series: bytes | None = None
    damage: str = ""


def read_route(journal: Journal, route: str) -> SavedRoute:
    """The route's last rollout, replayed, and what its analysis knew. Blocks; raises JournalError."""
    roles, latest = journal.roles().get(route), journal.latest(route)
    if latest is None:
        return SavedRoute(roles)
    try:
        rollout = journal.replay(latest.rollout_id)
    except JournalError as error:
        return SavedRoute(roles, damage=str(error))
    rollout_id = latest.rollout_id
    return SavedRoute(roles, rollout, journal.load_snapshot(rollout_id), journal.load_series(rollout_id))
