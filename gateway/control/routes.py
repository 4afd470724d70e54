"""What the controller keeps of one route: its rollout, its evidence so far, and the last analysis."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from gateway.config.build import analysis_spec, plan
from gateway.config.schema import RouteConfig
from gateway.control.journal import HandWeight, Journal, Snapshot
from gateway.control.records import Record
from gateway.control.views import RolloutView
from gateway.core.analysis import Analysis, AnalysisState, Evidence, Verdict, judge
from gateway.core.errors import JournalError
from gateway.core.rollout import Phase, Rollout
from gateway.core.types import weight_bp_from_percent

_log = logging.getLogger("gateway.control")


class RouteState:
    """One route under control. While a rollout is active, ``analysis_state`` is never None.

    ``rollout`` is the state in force. ``decided`` is the one that the next event meets: the same, but while more
    exposure waits for the journal it is the state after that. ``turn`` is held by whoever waits so.
    """

    def __init__(self, config: RouteConfig) -> None:
        self.config = config
        self.name = config.name
        self.spec = analysis_spec(config)
        self.plan = plan(config)
        self.rollout = Rollout()
        self.decided = self.rollout
        self.turn = asyncio.Lock()
        self.lowered_by_hand = 0
        self.analysis_state: AnalysisState | None = None
        self.analysis: Analysis | None = None
        self.first_epoch = 0
        self.announced_s = 0.0
        self.snapshot_s = 0.0

    @property
    def active(self) -> bool:
        """Whether there is a rollout to judge."""
        return _active(self.rollout)

    @property
    def deciding(self) -> bool:
        """Whether there is a rollout that a wish would meet, though its start may not be journaled yet."""
        return _active(self.decided)

    @property
    def canary_requests(self) -> int:
        """The experiment's canary requests since the rollout began."""
        return self.analysis_state.canary_requests if self.analysis_state is not None else 0

    @property
    def remembered_epoch(self) -> int:
        """The newest epoch that the evidence so far knows of; 0 when it knows of none."""
        if self.analysis_state is None:
            return 0
        intake = self.analysis_state.intake
        return max([0, intake.left, *intake.epochs])

    def begin(self, first_epoch: int) -> None:
        """A rollout begins; so does its evidence, with the epoch that the start itself publishes."""
        self.analysis_state = AnalysisState.fresh(self.spec)
        self.analysis = None
        self.first_epoch = first_epoch

    def adopt(self, rollout: Rollout, snapshot: Snapshot | None, analysis: Analysis | None) -> None:
        """Go on where the journal left off. The promise of a rollout under way is the one it was started with."""
        self.rollout = self.decided = rollout
        self.analysis_state = self._restored(snapshot) or AnalysisState.fresh(self.spec)
        self.analysis = analysis

    def _restored(self, snapshot: Snapshot | None) -> AnalysisState | None:
        if snapshot is None:
            return None
        try:
            state = msgspec.json.decode(snapshot.analysis_state, type=AnalysisState)
            analysis = judge(state.spec, state, Evidence(0.0, ()))[1]
        except ValueError as error:
            problem = str(error)
        else:
            if analysis.verdict is not Verdict.ERROR:
                return state
            problem = analysis.reason
        # Without its past the judge protects a little less; with a past that it cannot read, not at all.
        _log.error("the evidence of rollout %s cannot be used, it begins anew: %s", snapshot.rollout_id, problem)
        return None

    def concerns_present_backends(self) -> bool:
        """Whether the last rollout was about the backends that the configuration names now."""
        return (self.rollout.stable, self.rollout.canary) == (self.config.stable, self.config.canary)

    def forget(self) -> None:
        """The last rollout is history: the configuration speaks of other backends now."""
        self.rollout = self.decided = Rollout()
        self.analysis_state = None
        self.analysis = None

    def first_weight_bp(self, by_hand: HandWeight | None, live_bp: int | None) -> int:
        """The weight to begin with after a (re)start: what was wished, but not more than is live (None: unknown)."""
        if self.config.canary is None:
            return 0
        wished_bp = weight_bp_from_percent(self.config.canary_percent)
        if self.rollout.phase is not Phase.IDLE:
            wished_bp = self.rollout.weight_bp
        present = (self.config.stable, self.config.canary)
        if by_hand is not None and not self.active and (by_hand.stable, by_hand.canary) == present:
            wished_bp = by_hand.weight_bp
        return wished_bp if live_bp is None else min(wished_bp, live_bp)

    def view(self, record: Record) -> RolloutView:
        """What people see of one of the route's rollouts."""
        if self.rollout.rollout_id != record.rollout.rollout_id:
            return record.view(record.rollout, record.analysis, None)
        return record.view(self.rollout, self.analysis or record.analysis, self.canary_requests)


def _active(rollout: Rollout) -> bool:
    return rollout.phase in (Phase.PROGRESSING, Phase.PAUSED)


class Saved(msgspec.Struct):
    """What the journal knows of one route, or why it cannot be believed."""

    rollout: Rollout | None = None
    snapshot: Snapshot | None = None
    damage: str = ""


def read_route(journal: Journal, route: str) -> Saved:
    """The route's last rollout, replayed, and what its analysis knew. Blocks; raises JournalError."""
    latest = journal.latest(route)
    if latest is None:
        return Saved()
    try:
        rollout = journal.replay(latest.rollout_id)
    except JournalError as error:
        return Saved(damage=str(error))
    return Saved(rollout, journal.load_snapshot(latest.rollout_id))
