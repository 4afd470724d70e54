"""Events without a source: which of a route's metrics cannot get data now, and how to fix it.

Rules:

1. An event taken from a header has a source once any answer had that header, whatever its value; an event taken from
   labels, once any label of its name came, whatever its value. Before that a rate of zero proves nothing.
2. With fewer than `ANSWERS_MIN` answers of stable, or before the labels' window is over, it may only be early
   (``Why.WAITS``); after that it is said that there will never be any (``Why.NEVER``).
3. Answers that never get as far as the inspector (too large, event streams, unknown codings) are said here too.
4. Predictions that are compared by default (mode ``auto``) are silent where there are none; then `compared` of the
   rollout says why. While stable's first ones are on their way or learnt, promotion waits, unless hardly any sampled
   answer is one that may be a prediction.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from gateway.config.predictions import PREDICTED
from gateway.config.routes import RouteConfig
from gateway.control.alarms import Alarms
from gateway.control.decide.routes import RouteState
from gateway.control.workers.inspector_link import Inspection
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.core.analysis import with_new_events
from gateway.core.analysis.metrics.latencies import AUTO_SHARE_MIN
from gateway.core.analysis.show import sentences
from gateway.core.analysis.spec import ANSWERS
from gateway.core.predictions.events import Watched
from gateway.core.predictions.settings import DATA_ROWS, DATA_WINDOWS
from gateway.core.types import Unjudged, Variant, Why
from gateway.runtime.samples import FOR_PREDICTIONS, HEADER_SEEN, DataChecked

_log = logging.getLogger("gateway.control")
ANSWERS_MIN = 100
_LOOK_EVERY_S = 0.5
_NOT_READ = {
    "too_large": "over the size limit: raise it, for example `predictions: {body_bytes_max: 4194304}`",
    "streamed": "event streams, which are not read as predictions: `predictions: null` where all are",
}


class Reported(NamedTuple):
    """What has been seen of a route's sources: headers and labels by their event, stable's sampled answers."""

    headers: AbstractSet[str]
    labels: AbstractSet[str]
    sampled: Mapping[str, int]
    answers: int
    for_s: float


def reported(
    samples: tuple[Mapping[str, int], Mapping[str, int]], labels: AbstractSet[str], answers: int, for_s: float
) -> Reported:
    """``samples``: what became of each version's sampled answers; ``answers``: how many stable gave in ``for_s``."""
    keys = {key for part in samples for key in part if key.startswith(HEADER_SEEN)}
    return Reported({key.removeprefix(HEADER_SEEN) for key in keys}, labels, samples[0], answers, for_s)


def unjudged(route: RouteConfig, watched: Watched | None, seen: Reported) -> dict[str, Unjudged]:
    """The route's metrics that have nothing to compare."""
    found = {} if watched is None else dict(watched.unjudged)
    predictions = route.analysis.answers
    if predictions is not None and watched is not None:
        found |= _not_read(watched, seen.sampled)
        if predictions.unasked:
            found = _unasked(found, seen.sampled)
    answers = seen.answers
    early = answers < ANSWERS_MIN
    for event in route.analysis.events:
        if event.header is not None and event.name not in seen.headers:
            wanted = "" if event.header_value is None else f" (expected value: `{event.header_value}`)"
            reason = (
                f"no answer of either version has had the header `{event.header}`{wanted} yet ({answers:,} answers of"
                f" stable so far); have the model send it, or set `events: [{{name: {event.name}, header:"
                f" {event.header}, mode: advise}}]`"
            )
            found[event.name] = Unjudged(reason, Why.WAITS if early else Why.NEVER)
        elif event.trial is not None and event.name not in seen.labels:
            waits = early or seen.for_s < route.analysis.labels.window_s
            reason = (
                f"no label `{event.name}` has been posted for any of {answers:,} answers; post labels to"
                f" /api/v1/routes/{route.name}/events with the X-Request-ID of the answers, or set"
                f" `events: [{{name: {event.name}, trial: {event.trial.value}, mode: advise}}]`"
            )
            found[event.name] = Unjudged(reason, Why.WAITS if waits else Why.NEVER)
    return found


def _unchecked(route: RouteConfig, data: DataChecked | None) -> dict[str, Unjudged]:
    """The events of data checks, as long as no window of one of the versions was judged."""
    checks = route.analysis.checks
    if checks is None or (data is not None and min(data.judged) > 0):
        return {}
    lost = {} if data is None else data.lost
    judged = (0, 0) if data is None else data.judged
    reason = (
        f"validator {checks.validator} has judged {judged[0]} windows of stable and {judged[1]} of canary so far, of"
        f" {checks.window_rows} requests each"
    )
    if lost.get("without_request", 0) >= ANSWERS_MIN and not any(judged):
        never = f"{reason}; {lost['without_request']:,} requests were not kept in memory: raise `body_bytes_max`"
        return dict.fromkeys((DATA_WINDOWS, DATA_ROWS), Unjudged(never, Why.NEVER))
    if data is not None and data.problem:
        return dict.fromkeys((DATA_WINDOWS, DATA_ROWS), Unjudged(f"{reason}: {data.problem}", Why.NEVER))
    return dict.fromkeys((DATA_WINDOWS, DATA_ROWS), Unjudged(reason, Why.WAITS))


def _not_read(watched: Watched, samples: Mapping[str, int]) -> dict[str, Unjudged]:
    """Where the answers themselves never come to be read.

    Other samples do not count: most of them may have been taken for failures alone.
    """
    lost, why = max((samples.get(result, 0), result) for result in _NOT_READ)
    sampled = lost + watched.answers
    if lost < ANSWERS_MIN or 2 * lost < sampled:
        return {}
    reason = f"{lost:,} of {sampled:,} sampled answers of stable are {_NOT_READ[why]}"
    return dict.fromkeys((name for name in watched.unjudged if name in PREDICTED), Unjudged(reason, Why.NEVER))


def _unasked(found: Mapping[str, Unjudged], sampled: Mapping[str, int]) -> dict[str, Unjudged]:
    """What cannot be judged of predictions that are compared by default (rule 4)."""
    sent, taken = sampled.get(FOR_PREDICTIONS, 0), sampled.get("taken", 0)
    if sent < AUTO_SHARE_MIN * taken:
        what = f"{sent:,} of {taken:,} sampled answers of stable are whole ones to POST, which may be predictions"
        return dict(found) | dict.fromkeys(PREDICTED, Unjudged(what, Why.NEVER))
    if not sent:
        return dict(found)
    return {name: Unjudged(one.reason, Why.LEARNING) if one.why is Why.WAITS else one for name, one in found.items()}


def not_compared(route: RouteConfig, silent: Mapping[str, Unjudged]) -> str:
    """Why the route's answers are not compared by default; "" where they are, or where that is a warning's matter."""
    predictions = route.analysis.answers
    if predictions is None or not predictions.unasked:
        return ""
    reasons = [one.reason for name, one in silent.items() if name in PREDICTED and one.why is not Why.ABSENT]
    return f"not compared: {reasons[-1]}" if reasons else ""


class SilentSources:
    """Checks the sources of each route's metrics regularly, and raises an alarm where one stays silent."""

    def __init__(self, aggregator: ReportAggregator, alarms: Alarms) -> None:
        self._aggregator = aggregator
        self._alarms = alarms

    def look(self, route: RouteState, inspection: Inspection | None, for_s: float, now_s: float) -> None:
        """Which of the route's metrics have nothing to compare; and the alarm where one that decides never can.

        ``for_s``: how long this control process has been taking reports.
        """
        # While a rollout is judged at every look: what its counts come from must be known with them.
        if route.active or now_s - route.unjudged_s >= _LOOK_EVERY_S:
            route.unjudged_s = now_s
            route.unjudged = self._unjudged(route, inspection, for_s)
        # The numbers in the sentence grow; the alarm is another one only when other metrics are concerned.
        silent = tuple(sorted(route.silent)) if route.active else ()
        if silent != route.silent_alarmed:
            route.silent_alarmed = silent
            why = f"route {route.name} cannot promote: {sentences.unjudged(route.silent)}" if silent else ""
            self._alarms.show(f"no data on {route.name}", why)

    def _unjudged(self, route: RouteState, inspection: Inspection | None, for_s: float) -> dict[str, Unjudged]:
        name = route.name
        if inspection is not None:
            route.protocol = inspection.protocols(name)
        predictions, events = route.config.analysis.answers, route.config.analysis.events
        unasked = predictions is None or (predictions.unasked and not route.active)
        checks = _unchecked(route.config, None if inspection is None else inspection.data(name))
        if unasked and not events:
            return checks
        posted = frozenset[str]() if inspection is None else inspection.posted(name)
        answers = self._aggregator.tries(name, Variant.STABLE)[0]
        seen = reported(self._aggregator.samples(name), posted, answers, for_s)
        watched = None if inspection is None else inspection.watched(name)
        if inspection is not None and watched is not None:
            route.compared, route.meanings = watched.chosen, inspection.meanings(name)
            if route.generation is not None and route.generation < watched.generation and route.analysis_state:
                _log.warning("route %s: the outputs to compare were chosen again: %s", name, watched.chosen)
                route.analysis_state = with_new_events(route.analysis_state, ANSWERS)
            route.generation = watched.generation
        found = unjudged(route.config, watched, seen) | checks
        route.compared = not_compared(route.config, found) or route.compared
        return found
