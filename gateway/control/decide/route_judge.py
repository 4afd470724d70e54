"""The judge of a route's rollout: its evidence is looked at once, and the verdict handed to the pipeline.

Rules:

1. While stable answers nothing, the rollout is frozen: no verdict, no step up, no rollback but an operator's, and an
   alarm. What was counted meanwhile is no evidence.
2. In a plan's mirror step the pairs decide, and nothing else (core/analysis/paired.py). After it, evidence are the
   epochs in which requests were assigned at random: those at 0 and 100 % say nothing. While the plan's warm-up lasts,
   only a canary that is as good as dead is convicted (core/analysis/budget.py).
3. The counts of a route that something else splits come from its actuator; while that is in trouble, there is no
   verdict either (decide/external.py), and the canary gets no more. Stable serves meanwhile, so deadlines go on.
4. What fails for one route is that route's alarm until it works again; the others are judged all the same, and the
   instance stays ready.
"""

from __future__ import annotations

import logging

import msgspec

from gateway.control.alarms import Alarms
from gateway.control.decide.answer_findings import with_answers
from gateway.control.decide.external import ExternalRoutes
from gateway.control.decide.failure_places import Endpoints, tally_of, with_places
from gateway.control.decide.pipeline import DecisionPipeline
from gateway.control.decide.routes import RouteState
from gateway.control.health.conditions import conditions, no_verdict
from gateway.control.health.prober import Prober
from gateway.control.journal.writer import JournalWriter
from gateway.control.workers.inspector_link import Inspection
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.control.workers.table_publisher import TablePublisher
from gateway.core.analysis import AnalysisSpec, AnalysisState, Evidence, Look, Verdict, look, paired
from gateway.core.analysis.judge import unread
from gateway.core.analysis.paired import PairedState
from gateway.core.rollout import Analysed, Conditions
from gateway.core.types import WEIGHT_BP_MAX, Variant
from gateway.runtime.clock import Clock

_log = logging.getLogger("gateway.control")
_SNAPSHOT_EVERY_S = 1.0
# How often an analysis is announced. To make it ready to be shown takes several looks' time.
_WATCHED_EVERY_S, _UNWATCHED_EVERY_S = 0.25, 1.0


class RouteJudge:
    """Judges one route after the other. Never waits."""

    def __init__(
        self,
        *,
        aggregator: ReportAggregator,
        prober: Prober,
        publisher: TablePublisher,
        pipeline: DecisionPipeline,
        journal_writer: JournalWriter,
        alarms: Alarms,
        clock: Clock,
        external: ExternalRoutes,
    ) -> None:
        self._external = external
        self._aggregator = aggregator
        self._prober = prober
        self._publisher = publisher
        self._pipeline = pipeline
        self._journal_writer = journal_writer
        self._alarms = alarms
        self._clock = clock
        # How many analyses ended in each verdict: (route, verdict) -> count.
        self.verdict_counts: dict[tuple[str, str], int] = {}

    def judge(self, route: RouteState, inspection: Inspection | None, now_s: float) -> None:
        """Judge an active rollout, and act on it. Never raises (rule 4)."""
        alarm = f"analysis of {route.name}"
        try:
            self._judge(route, inspection, now_s)
        except Exception:  # noqa: BLE001  # see below
            # A loop that dies would leave every canary unjudged; the fault is logged and is an alarm,
            # and the next tick tries again.
            _log.exception("the analysis of route %s failed", route.name)
            why = f"route {route.name}: no verdict, because the analysis failed; see the control process's log"
            self._alarms.sound(alarm, why, warning=True)
        else:
            self._alarms.clear(alarm)

    def not_judged(self, route: RouteState) -> None:
        """The route has no rollout to judge."""
        self._alarms.clear(_no_verdict_on(route))

    def _judge(self, route: RouteState, inspection: Inspection | None, now_s: float) -> None:
        assert route.analysis_state is not None  # every active route has one: see RouteState
        known = self._conditions(route)
        frozen = self._freezes(route, known, now_s)
        if why := no_verdict(known, frozen=True) if frozen else self._external_trouble(route):
            unjudged = Analysed(now_s, Verdict.ERROR, why, (), route.canary_requests, known)
            route.last_analysis = unjudged
            if frozen:
                self._pipeline.on_time_passed(route, now_s)
            else:
                self._pipeline.on_no_verdict(route, unjudged)
            return
        if route.paired is not None:
            seen = self._look_at_pairs(route, route.paired, route.analysis_state.spec, now_s)
        else:
            seen = self._look(route, route.analysis_state, inspection, now_s)
        key = (route.name, seen.verdict.value)
        self.verdict_counts[key] = self.verdict_counts.get(key, 0) + 1
        changed = route.look is None or route.look.verdict is not seen.verdict
        route.look = seen
        event = Analysed(now_s, seen.verdict, seen.reason, seen.causes, route.canary_requests, known, seen.unknown)
        route.last_analysis = event
        self._pipeline.on_analysis(route, event, seen)
        every_s = _WATCHED_EVERY_S if self._pipeline.watched else _UNWATCHED_EVERY_S
        if changed or now_s - route.announced_s >= every_s:
            route.announced_s = now_s
            self._pipeline.announce(route, "analysis")
        if now_s - route.snapshot_s >= _SNAPSHOT_EVERY_S and self._journal_writer.idle:
            route.snapshot_s = now_s
            self.save_snapshot(route)
            self._pipeline.save_series(route.rollout.rollout_id)

    def _look(self, route: RouteState, state: AnalysisState, inspection: Inspection | None, now_s: float) -> Look:
        route.analysis_state, seen = look(state.spec, state, self._evidence(route, now_s))
        if inspection is not None:
            seen = with_answers(inspection, route.name, seen, state.spec, route.first_epoch)
        if route.tally_before is None:
            route.tally_before = tally_of(self._aggregator, route.name)
        return with_places(seen, self._aggregator, route.name, route.tally_before, self._endpoints(route))

    def _look_at_pairs(self, route: RouteState, state: PairedState, spec: AnalysisSpec, now_s: float) -> Look:
        """In the mirror step: every epoch counts, since no user is assigned to the canary in any."""
        evidence = self._aggregator.evidence(route.name, route.first_epoch, self._publisher.table.epoch, now_s)
        route.paired, seen = paired.look(state, evidence, spec.alpha_rollback, spec.alpha_promote)
        return seen

    def _endpoints(self, route: RouteState) -> Endpoints:
        backends, rollout = self._publisher.table.backends, route.rollout
        stable, canary = (backends.get(name) for name in (rollout.stable, rollout.canary))
        return Endpoints(len(stable.endpoints) if stable else 0, len(canary.endpoints) if canary else 0)

    def _conditions(self, route: RouteState) -> Conditions:
        rollout = route.rollout
        return conditions(rollout.plan, rollout.stable, rollout.canary, self._prober.endpoints, self._clock.wall_s())

    def _freezes(self, route: RouteState, known: Conditions, now_s: float) -> bool:
        """Whether there is nothing to compare the canary with; the alarm stands also where only the probes say so."""
        route.stable_liveness.update(*self._aggregator.tries(route.name, Variant.STABLE), now_s)
        frozen = bool(route.rollout.stable) and route.stable_liveness.stopped(known.stable_up, now_s)
        reason = no_verdict(known, frozen=frozen)
        self._alarms.show(_no_verdict_on(route), reason and f"route {route.name}: {reason}")
        if route.frozen and not frozen:
            # A new epoch: failures during the outage count against neither side.
            self._publisher.set_weight(route.name, self._publisher.weight_bp(route.name))
            route.first_epoch = self._publisher.table.epoch
        route.frozen = frozen
        return frozen

    def _external_trouble(self, route: RouteState) -> str:
        """Why there can be no verdict on a route that something else splits (rule 3)."""
        if not self._publisher.table.route(route.name).external:
            return ""
        route.external_trouble = self._external.trouble(route.name)
        return route.external_trouble

    def _evidence(self, route: RouteState, now_s: float) -> Evidence:
        """The epochs in which a coin was flipped: the others say nothing, however long a request of theirs goes on."""
        assert route.analysis_state is not None  # as above
        table, first, unused = self._publisher.table, route.first_epoch, unread(route.analysis_state.spec)
        if table.route(route.name).external:
            found = self._external.evidence(route.name, first, table.epoch, now_s)
        else:
            found = self._aggregator.evidence(route.name, first, table.epoch, now_s, unused)
        split = tuple(e for e in found.epochs if 0 < e.weight_bp < WEIGHT_BP_MAX)
        outside = 0
        if not route.canary_requests:
            # For the sentence that says why there is no verdict.
            forced = self._aggregator.forced(route.name, Variant.CANARY)
            if route.look is None:
                route.forced_before = forced
            outside = sum(e.canary.requests for e in found.epochs if e not in split) + forced - route.forced_before
        return Evidence(now_s, split, table.epoch, route.unjudged, outside)

    def save_snapshot(self, route: RouteState) -> None:
        """Journal what the analysis of an active rollout knows."""
        state = route.analysis_state
        if self._journal_writer.refusal is not None or state is None or not route.active:
            return
        rollout_id, body, wall_s = route.rollout.rollout_id, state.encode(), self._clock.wall_s()
        evidence = msgspec.json.encode(route.analysis)
        self._journal_writer.write(lambda journal: journal.save_snapshot(rollout_id, body, evidence, wall_s))


def _no_verdict_on(route: RouteState) -> str:
    """The alarm's name."""
    return f"no verdict on {route.name}"
