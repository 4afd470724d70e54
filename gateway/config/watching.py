"""From a configuration to what the response sampler and the inspector are to do."""

from __future__ import annotations

from gateway.config.metrics import EventConfig
from gateway.config.predictions import Trials
from gateway.config.routes import RouteConfig
from gateway.config.schema import GatewayConfig
from gateway.core.analysis.spec import EventSpec, Mode
from gateway.core.predictions.failures import UNREAD_ANSWERS
from gateway.core.predictions.labels import LabelSettings
from gateway.core.predictions.protocols.adapter import ProtocolName
from gateway.core.predictions.settings import DataSettings, RouteWatch
from gateway.core.stats.outcomes import ERRORS
from gateway.core.traffic.table import Mark, Tap

_UNFOLDED_TIMES = 8


def prediction_events(route: RouteConfig) -> tuple[EventSpec, ...]:
    """The events that `analysis.predictions` adds; one that is in `analysis.events` is judged as it says there."""
    predictions = route.analysis.answers
    if predictions is None:
        return ()
    named, margin = {event.name for event in route.analysis.events}, route.analysis.rate(ERRORS).margin_delta
    return tuple(event for event in predictions.events(margin) if event.name not in named)


def answer_events(route: RouteConfig) -> tuple[EventSpec, ...]:
    """What reading the answers adds by itself: failures inside of them, and how many could not be read."""
    failures = (route.analysis.failures_inside(),) if _reads_failures(route) else ()
    reads = bool(failures) or route.analysis.answers is not None
    unread = (EventSpec(UNREAD_ANSWERS, Mode.ADVISE),) if reads else ()
    return (*failures, *unread, *_text_events(route))


def _text_events(route: RouteConfig) -> tuple[EventSpec, ...]:
    """What is judged of texts; one that is in `analysis.events` is judged as it says there."""
    if not _reads_texts(route):
        return ()
    named, margin = {event.name for event in route.analysis.events}, route.analysis.rate(ERRORS).margin_delta
    return tuple(event for event in route.analysis.texts.events(margin) if event.name not in named)


def _reads_texts(route: RouteConfig) -> bool:
    return _reads_failures(route) and route.analysis.texts.mode is not Mode.OFF


def data_events(route: RouteConfig) -> tuple[EventSpec, ...]:
    """The events that `analysis.data_checks` adds."""
    checks = route.analysis.checks
    return () if checks is None else checks.events()


def tap(route: RouteConfig) -> Tap | None:
    """What workers take note of on this route; None when there is nothing."""
    analysis = route.analysis
    marks = tuple(
        Mark(event.name, event.header.lower(), event.header_value, _bounds(event))
        for event in analysis.events
        if event.header is not None
    )
    ids = any(event.trial is not None for event in analysis.events)
    predictions = analysis.answers
    failures_per_s = analysis.model_errors.samples_per_s_max if _reads_failures(route) else 0.0
    requests = analysis.checks is not None
    if predictions is None:
        wanted = bool(ids or marks or failures_per_s or requests)
        share = 1.0 if requests else 0.0
        found = Tap(share=share, ids=ids, marks=marks, failures_per_s=failures_per_s, requests=requests)
        return found if wanted else None
    return Tap(
        predictions.sample_percent / 100,
        predictions.samples_per_s_max,
        predictions.body_bytes_max,
        ids,
        marks,
        failures_per_s,
        predictions.unasked,
        requests,
    )


def _bounds(event: EventConfig) -> tuple[float, float] | None:
    return None if event.bounds is None else (event.bounds[0], event.bounds[1])


def needs_inspector(config: GatewayConfig) -> bool:
    """Whether answers or labels of any route are to be looked at, now or when it has a canary."""
    return any(_wanted(_watch(route, config)) for route in config.routes)


def needs_features(config: GatewayConfig) -> bool:
    """Whether any route puts features into its requests."""
    return any(route.features is not None for route in config.routes)


def watched(config: GatewayConfig) -> dict[str, RouteWatch]:
    """What the inspector is to do, by route; empty when it is not needed."""
    found = {route.name: _watch(route, config) for route in config.routes if route.canary is not None}
    return {name: watch for name, watch in found.items() if _wanted(watch)}


def _wanted(watch: RouteWatch) -> bool:
    return watch.failures or watch.watch is not None or watch.labels is not None or watch.data is not None


def _reads_failures(route: RouteConfig) -> bool:
    return route.analysis.model_errors.mode is not Mode.OFF


def _data(route: RouteConfig, config: GatewayConfig) -> DataSettings | None:
    checks = route.analysis.checks
    if checks is None:
        return None
    validator = next(one for one in config.validators if one.name == checks.validator)
    return DataSettings(tuple(validator.command), validator.timeout_s, checks.window_rows)


def _watch(route: RouteConfig, config: GatewayConfig) -> RouteWatch:
    analysis = route.analysis
    events = {event.name: event.trial is Trials.REQUEST for event in analysis.events if event.trial is not None}
    bounds = {name: found for event in analysis.events if (name := event.name) in events and (found := _bounds(event))}
    labels = LabelSettings(events, analysis.labels.window_s, analysis.labels.requests_max, bounds) if events else None
    predictions, data = analysis.answers, _data(route, config)
    reported = tuple(event.name for event in analysis.events if event.header is not None or event.trial is not None)
    failures = _reads_failures(route)
    texts = analysis.texts.settings() if _reads_texts(route) else None
    if predictions is None:
        protocol = route.protocol.value
        return RouteWatch(protocol, labels=labels, failures=failures, data=data, texts=texts, reported=reported)
    protocol = predictions.protocol or route.protocol
    paths = predictions.named if protocol is ProtocolName.JSON else {}
    unfolded = predictions.body_bytes_max * _UNFOLDED_TIMES
    watch = predictions.watch(protocol, reported)
    return RouteWatch(protocol.value, paths, watch, labels, unfolded, failures, data, texts, reported)
