"""What the inspector knows: samples and labels in, cumulative counts per route and epoch out; no I/O.

Rules:

1. Counts are cumulative over this life of the process, as a worker's are. An epoch stays in the report while a request
   of it may still be labelled, or a sample of it may still be on its way, and until control has taken in a report with
   its final counts.
2. A route that is not watched (any more) counts nothing. New settings for a route begin its warm-up and window anew.
3. A sample whose content coding cannot be undone (decoding.py) is counted as skipped and is no trial of any prediction:
   nothing is known of what it says. One that can be read and is not what its protocol says is an `unreadable` answer.
4. The same sample may be read for its predictions and for failures inside of it (answers.py), or for one of them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping

from gateway.core.predictions.agreement import agree
from gateway.core.predictions.events import FAULTS, UNREADABLE, Known, Watch
from gateway.core.predictions.failures import UNREAD_ANSWERS
from gateway.core.predictions.labels import Join
from gateway.core.predictions.outputs import Output, UndecodableError, WholeAnswer
from gateway.core.predictions.protocols.adapter import Recognised
from gateway.core.predictions.protocols.choice import AnswerReader
from gateway.core.predictions.settings import DATA_ROWS, DATA_WINDOWS, RouteWatch
from gateway.core.predictions.text_events import BOUNDS
from gateway.core.stats.counts import Counts, EpochCounts, cell_of
from gateway.core.stats.pairs import COMPARED, DISAGREED, UNREAD
from gateway.core.types import Variant
from gateway.inspector.answers import SampledAnswers
from gateway.inspector.data_checks import DataChecks, DataVerdict, DataWindow
from gateway.inspector.decoding import UnreadError, decoded
from gateway.runtime.samples import (
    FAILURES,
    PREDICTIONS,
    AnswerPair,
    Inspected,
    Label,
    PairedAnswer,
    Sample,
    Served,
)
from gateway.runtime.wire import Report, RouteTotals

_ON_ITS_WAY_S = 10.0
RESULTS = ("decoded", *FAULTS, "skipped")


class _Bucket:
    """One route's epoch: its counts, and whether they are final."""

    def __init__(self, counts: EpochCounts, updated_s: float) -> None:
        self.counts = counts
        self.updated_s = updated_s
        self.final_seq: int | None = None

    def arm(self, variant: int) -> Counts:
        return self.counts.canary if variant else self.counts.stable


class _WatchedRoute:
    """One watched route."""

    def __init__(self, settings: RouteWatch, known: Known | None = None) -> None:
        self.settings = settings
        self.reader = AnswerReader(settings.protocol, settings.paths)
        self.protocols: Counter[Recognised] = Counter()
        self.watch = None if settings.watch is None else Watch(settings.watch, known)
        self.join = None if settings.labels is None else Join(settings.labels)
        self.data = None if settings.data is None else DataChecks(settings.data)
        reads = settings.failures or self.watch is not None or self.data is not None
        self.answers = (
            SampledAnswers(settings.decoded_bytes_max, self.reader, self.protocols, settings.texts) if reads else None
        )

    @property
    def meanings(self) -> dict[str, str]:
        """What each event of the answers stands for."""
        classes = {} if self.watch is None else self.watch.meanings
        tools = {} if self.answers is None or self.answers.texts is None else self.answers.texts.meanings
        data = None if self.data is None else self.data.meaning
        return {**classes, **tools, **({} if not data else dict.fromkeys((DATA_ROWS, DATA_WINDOWS), data))}


class Aggregator:
    """All watched routes. ``draw`` gives a number from [0, 1)."""

    def __init__(self, boot: str, draw: Callable[[], float]) -> None:
        self._boot = boot
        self._draw = draw
        self._seq = 0
        self._routes: dict[str, _WatchedRoute] = {}
        self._buckets: dict[tuple[str, int], _Bucket] = {}
        self._newest: dict[str, int] = {}
        self._results: dict[str, dict[str, int]] = {}
        self._labels: dict[str, dict[str, dict[str, int]]] = {}
        self._totals: dict[str, RouteTotals] = {}

    def watch(self, routes: dict[str, RouteWatch], known: Mapping[str, Known] | None = None) -> None:
        """Look at these routes from now on; ``known`` is what was learnt of them before this process."""
        before = self._routes
        self._routes = {}
        for name, settings in routes.items():
            state = before.get(name)
            if state is None or state.settings != settings:
                state = _WatchedRoute(settings, (known or {}).get(name) if state is None else None)
            self._routes[name] = state
        for name, state in self._routes.items():
            if state.watch is not None:
                self._results.setdefault(name, dict.fromkeys(RESULTS, 0))

    def take(self, sample: Sample, now_s: float, source: int = 0) -> None:
        """One sampled answer, or a part of one; ``source`` distinguishes the workers' streams."""
        state = self._routes.get(sample.route)
        if state is None or state.answers is None:
            return
        if sample.purposes & FAILURES and state.settings.failures:
            known = state.answers.take(sample, source)
            self._label(sample, [one for one in known.labels if one[0] not in state.settings.reported], now_s)
            self._value(sample, [one for one in known.values if one[0] not in state.settings.reported], now_s)
        if sample.purposes & PREDICTIONS and state.watch is not None:
            self._predicted(state, state.watch, state.answers, sample, now_s)
        if sample.purposes & PREDICTIONS and state.data is not None:
            with contextlib.suppress(UnreadError):  # it is counted where answers are read
                state.data.take(sample, decoded(sample.encoding, sample.body, state.settings.decoded_bytes_max))

    @property
    def checks(self) -> dict[str, DataChecks]:
        """The routes whose data are checked."""
        return {name: state.data for name, state in self._routes.items() if state.data is not None}

    def judged(self, checks: DataChecks, window: DataWindow, verdict: DataVerdict, now_s: float) -> None:
        """A validator has judged a window."""
        self._label(window.of, checks.judged(window, verdict), now_s)

    def take_pair(self, pair: AnswerPair, now_s: float) -> None:
        """Both versions' answers to one request: whether they agree (core/predictions/agreement.py)."""
        state = self._routes.get(pair.route)
        if state is None:
            return
        stable, canary = (self._outputs(state, pair, one) for one in (pair.stable, pair.canary))
        agreed = None if stable is None else agree(stable, canary, pair.number_tolerance)
        totals = self._totals.get(pair.route)
        if totals is None:
            totals = self._totals[pair.route] = RouteTotals(pair.route, Variant.CANARY)
        for counts in (self._bucket(pair, now_s).counts.pairs, totals.mirror_pairs):
            for name, happened in (
                (COMPARED, agreed is not None),
                (DISAGREED, agreed is False),
                (UNREAD, agreed is None),
            ):
                if happened:
                    counts[name] = counts.get(name, 0) + 1

    def _outputs(self, state: _WatchedRoute, pair: AnswerPair, answer: PairedAnswer) -> list[Output] | None:
        """What one answer says; None for one that cannot be read."""
        try:
            body = decoded(answer.encoding, answer.body, state.settings.decoded_bytes_max)
            whole = WholeAnswer(body, answer.content_type, answer.header_length, pair.path)
            return state.reader.extract(whole)[1]
        except (UnreadError, UndecodableError):
            return None

    def gone(self, source: int) -> None:
        """This worker's connection has ended."""
        for state in self._routes.values():
            if state.answers is not None:
                state.answers.gone(source)

    def _label(self, sample: Sample, labels: list[tuple[str, bool]], now_s: float) -> None:
        if labels:
            arm = self._bucket(sample, now_s).arm(sample.variant)
            for event, happened in labels:
                arm.label(event, happened)

    def _value(self, sample: Sample, values: list[tuple[str, float]], now_s: float) -> None:
        if values:
            arm = self._bucket(sample, now_s).arm(sample.variant)
            for name, value in values:
                arm.value(name, cell_of(value, BOUNDS[name], self._draw()))

    def _predicted(
        self, state: _WatchedRoute, watch: Watch, answers: SampledAnswers, sample: Sample, now_s: float
    ) -> None:
        results = self._results[sample.route]
        alone = not (sample.purposes & FAILURES and state.settings.failures)
        try:
            body = decoded(sample.encoding, sample.body, state.settings.decoded_bytes_max)
        except UnreadError as error:
            results["skipped"] += 1
            watch.skip(Variant(sample.variant), str(error))
            if alone:
                self._label(sample, answers.unread(sample, error), now_s)
            return
        if alone:
            self._label(sample, [(UNREAD_ANSWERS, False)], now_s)
        answer = WholeAnswer(body, sample.content_type, sample.header_length, sample.path)
        outputs: list[Output] | None = None
        unreadable = ""
        try:
            protocol, outputs = state.reader.extract(answer)
            state.protocols[protocol] += 1
        except UndecodableError as error:
            unreadable = str(error)
        tried, happened = watch.take(Variant(sample.variant), outputs, self._draw(), unreadable, body)
        arm = self._bucket(sample, now_s).arm(sample.variant)
        for event in tried:
            arm.label(event, event in happened)
        for event in FAULTS:
            results[event] += event in happened
        results["decoded"] += UNREADABLE not in happened

    def served(self, news: Served, now_s: float) -> None:
        """A request that may be labelled from now on."""
        state = self._routes.get(news.route)
        if state is not None and state.join is not None:
            self._bucket(news, now_s)
            state.join.served(news.request_id, news.epoch, Variant(news.variant), now_s)

    def label(self, route: str, label: Label, now_s: float) -> None:
        """A business event."""
        state = self._routes.get(route)
        if state is not None and state.join is not None and label.name in state.join.results:
            state.join.label(label.request_id, label.name, label.value, now_s)

    def expire(self, now_s: float) -> None:
        """Close the windows that are over."""
        for name, state in self._routes.items():
            for trial in state.join.expire(now_s) if state.join is not None else ():
                bucket = self._buckets.get((name, trial.epoch))
                if bucket is None:
                    continue
                if trial.bounds is None:
                    bucket.arm(trial.variant).label(trial.event, bool(trial.value))
                else:
                    cell = cell_of(float(trial.value), trial.bounds, self._draw())
                    bucket.arm(trial.variant).value(trial.event, cell)

    def report(self, now_s: float) -> Inspected:
        """Everything counted so far. The caller sends it at once (it is not a copy)."""
        self._seq += 1
        for (name, epoch), bucket in self._buckets.items():
            state = self._routes.get(name)
            awaited = state is not None and state.join is not None and epoch in state.join.epochs
            awaited = awaited or (state is not None and state.data is not None and state.data.awaits(epoch))
            over = epoch < self._newest[name] and now_s - bucket.updated_s > _ON_ITS_WAY_S
            if bucket.final_seq is None and over and not awaited:
                bucket.final_seq = self._seq
        evidence = [bucket.counts for bucket in self._buckets.values()]
        epoch = max(self._newest.values(), default=0)
        report = Report(self._boot, self._seq, epoch, evidence, [*self._totals.values()], {}, 0, 0, 0)
        for name, state in self._routes.items():
            if state.join is not None:
                self._labels[name] = state.join.results
        meanings = {name: state.meanings for name, state in self._routes.items() if state.answers is not None}
        watched = {name: state.watch.watched for name, state in self._routes.items() if state.watch is not None}
        answers = {name: state.answers.found for name, state in self._routes.items() if state.answers is not None}
        protocols = {name: state.protocols.most_common() for name, state in self._routes.items() if state.protocols}
        checks = self.checks
        for one in checks.values():
            one.reported(self._seq)
        data = {name: one.found for name, one in checks.items()}
        return Inspected(report, self._results, self._labels, meanings, watched, answers, protocols, data)

    def confirm(self, seq: int) -> None:
        """Control has taken in report ``seq``: forget the epochs whose final counts it held, and results in it."""
        for one in self.checks.values():
            one.confirm(seq)
        final = [
            key for key, bucket in self._buckets.items() if bucket.final_seq is not None and bucket.final_seq <= seq
        ]
        for key in final:
            del self._buckets[key]

    def _bucket(self, news: Sample | Served | AnswerPair, now_s: float) -> _Bucket:
        key = (news.route, news.epoch)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(EpochCounts(news.route, news.epoch, news.weight_bp), now_s)
            self._newest[news.route] = max(news.epoch, self._newest.get(news.route, 0))
        bucket.updated_s = now_s
        # Whatever was final a moment ago is not, after all.
        bucket.final_seq = None
        return bucket
