"""What the controller keeps of one route: its rollout, its evidence so far, and the last analysis."""

from __future__ import annotations

import msgspec

from gateway.config.build import analysis_spec, plan
from gateway.config.schema import RouteConfig
from gateway.control.journal import HandWeight, Journal
from gateway.control.records import Record
from gateway.core.analysis import Analysis, AnalysisState
from gateway.core.rollout import Phase, Rollout
from gateway.core.types import weight_bp_from_percent


class RouteState:
    """One route under control. While a rollout is active, ``analysis_state`` is never None."""

    def __init__(self, config: RouteConfig) -> None:
        self.config = config
        self.name = config.name
        self.spec = analysis_spec(config)
        self.plan = plan(config)
        self.rollout = Rollout()
        self.analysis_state: AnalysisState | None = None
        self.analysis: Analysis | None = None
        self.first_epoch = 0
        self.announced_s = 0.0
        self.snapshot_s = 0.0

    @property
    def active(self) -> bool:
        """Whether there is a rollout to judge."""
        return self.rollout.phase in (Phase.PROGRESSING, Phase.PAUSED)

    @property
    def canary_requests(self) -> int:
        """The experiment's canary requests since the rollout began."""
        return self.analysis_state.canary_requests if self.analysis_state is not None else 0

    def read(self, journal: Journal) -> tuple[Rollout | None, AnalysisState | None]:
        """The route's last rollout, replayed, and what its analysis knew. Blocks; raises JournalError."""
        latest = journal.latest(self.name)
        if latest is None:
            return None, None
        rollout = journal.replay(latest.rollout_id)
        snapshot = journal.load_snapshot(latest.rollout_id)
        if snapshot is None:
            return rollout, None
        return rollout, msgspec.json.decode(snapshot.analysis_state, type=AnalysisState)

    def adopt(self, records: dict[str, Record], read: tuple[Rollout | None, AnalysisState | None]) -> None:
        """Go on where the journal left off. The promise of a rollout under way is the one it was started with."""
        rollout, state = read
        if rollout is None:
            return
        self.rollout = rollout
        self.analysis_state = state or AnalysisState.fresh(self.spec)
        record = records.get(rollout.rollout_id)
        self.analysis = record.analysis if record is not None else None

    def concerns_present_backends(self) -> bool:
        """Whether the last rollout was about the backends that the configuration names now."""
        return (self.rollout.stable, self.rollout.canary) == (self.config.stable, self.config.canary)

    def forget(self) -> None:
        """The last rollout is history: the configuration speaks of other backends now."""
        self.rollout = Rollout()
        self.analysis_state = None
        self.analysis = None

    def first_weight_bp(self, by_hand: HandWeight | None, *, journaled: bool) -> int:
        """The weight to begin with after a (re)start; 0 when the journal cannot be read."""
        if self.config.canary is None or not journaled:
            return 0
        if by_hand is not None and not self.active:
            return by_hand.weight_bp
        if self.rollout.phase is not Phase.IDLE:
            return self.rollout.weight_bp
        return weight_bp_from_percent(self.config.canary_percent)
