"""The response sampler: bodies of some answers for the inspector, and events taken from headers.

Rules:

1. The choice is made with the variant, before anything is known of the answer: for predictions a coin of the route's
   share, then a budget per second. Both variants pay from ONE budget, so that at every moment an answer of either is as
   likely to be looked at. With a budget for each, stable's would be used up at the beginning of a bout of traffic and
   the canary's last to its end, and whatever goes wrong towards the end (overload) would look like the canary's doing.
   So that stable's many do not displace the canary's few, a coin thins the variant with more traffic to `RATIO` times
   the other's, by the weight: from the time that the budget was used up once, and then for good, because a share that
   changed with the traffic would be the same fault again. Other shares of the canary among the samples than among the
   requests bend nothing (docs/decisions/0001). A sample costs its budget a random amount (of the mean 1), so that no
   pattern in the traffic, such as endpoints in turn, meets a pattern in the choice.
2. Bytes have a budget, too, which both variants share. It pays afterwards: an answer is begun whatever its size, and
   what it took delays those that come later. So long answers are as likely to be looked at as short ones. It is
   for what is looked at by default; predictions that the configuration asks for have a budget of their number alone.
3. What is kept are references to the very bytes that are being relayed; nothing is copied, parsed or waited for here.
   Of a streamed answer some kilobytes are kept at most, then they are sent; of others, `body_bytes_max`.
4. A bounded queue lies between the request path and the sender; what does not fit is dropped and counted. A stream of
   which a part was dropped counts as dropped.
5. For predictions only a whole answer to POST with a 2xx status is sampled, and no stream. Failures are looked for in
   every answer with a 2xx status and a body, in as much of it as was relayed: clients leave when they see an error.
   Never a forced variant's answer, and never a rescued request's, which is stable's.
"""

from __future__ import annotations

import math

from gateway.core.predictions.failures import EVENTS, HTML, JSON, LINES, TEXT, family_of
from gateway.core.stats.counts import Counts, EpochCounts, cell_of
from gateway.core.traffic.table import Route, Tap
from gateway.core.types import WEIGHT_BP_MAX, Variant
from gateway.proxy.counting.epoch_counters import EpochCounters
from gateway.proxy.counting.sample_link import SampleQueue
from gateway.runtime import samples
from gateway.runtime.samples import FAILURES, PREDICTIONS, Part, Sample, Served

_ID_BYTES_MAX = 200
# Of its end, which says what was asked for.
_PATH_BYTES_MAX = 400
# Saved up by a budget, as a part of a second.
SAVED_S = 0.25
# How many samples of the variant with more traffic there are for one of the other (rule 1). More take the budget away
# from the canary's answers, fewer ask for more of them: docs/decisions/0029.
RATIO = 4.0
# For failures: bytes per second of both variants, so much of an answer that is read whole, of one that is no text, of a
# stream; and of a stream that is kept before it is sent.
_BYTES_PER_S = 2 << 20
_WHOLE_BYTES_MAX = 256 * 1024
_HEAD_BYTES = 1024
_STREAM_BYTES_MAX = 16 << 20
_PART_BYTES = 8 * 1024
_GOLDEN = 0.6180339887498949
_MORE = (Part.FIRST, Part.MORE)
_NO_BODY = (204, 205, 206)
_STREAMS = (EVENTS, LINES)
# Read whole, as far as it goes; of other answers the beginning says enough.
_READ = (JSON, HTML, TEXT, "")


class _Budget:
    """A token bucket whose samples cost a random amount each (rule 1)."""

    __slots__ = ("_at_s", "_rate", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = max(1.0, rate * SAVED_S)
        self._at_s = 0.0

    def take(self, draw: float, now_s: float) -> bool:
        """Whether one more is sampled; ``draw`` is from [0, 1)."""
        if not self.left(now_s):
            return False
        self._tokens += math.log1p(-draw)
        return True

    def left(self, now_s: float) -> bool:
        """Whether anything is left."""
        tokens = self._tokens + (now_s - self._at_s) * self._rate
        self._at_s = now_s
        self._tokens = min(tokens, max(1.0, self._rate * SAVED_S))
        return self._tokens > 0.0

    def spend(self, amount: int) -> None:
        """Pay afterwards (rule 2)."""
        self._tokens -= amount


class Sampler:
    """Which answers are looked at: at most twice ``rate`` a second of both variants together (rule 1)."""

    __slots__ = ("_budget", "_keep", "_short")

    def __init__(self, rate: float, weight: float) -> None:
        self._budget = _Budget(2.0 * rate)
        self._keep = (1.0, 1.0)
        if 0.0 < weight < 1.0:
            self._keep = (min(1.0, RATIO * weight / (1.0 - weight)), min(1.0, RATIO * (1.0 - weight) / weight))
        self._short = False

    def take(self, variant: Variant, draw: float, now_s: float, *, may: bool = True) -> bool:
        """Whether one more is sampled; ``draw`` is from [0, 1). ``may``: another budget of both has something left."""
        if self._short:
            keep = self._keep[variant]
            if draw >= keep:
                return False
            draw /= keep
        if may and self._budget.take(draw, now_s):
            return True
        self._short = True
        return False


class RouteSampler:
    """The tap of one route under one table."""

    __slots__ = (
        "_bytes",
        "_failures",
        "_predictions",
        "_share",
        "_spread",
        "_counters",
        "header_keys",
        "marks",
        "modest",
        "queue",
        "tap",
        "valued",
    )

    def __init__(self, counters: EpochCounters, tap: Tap, queue: SampleQueue) -> None:
        self._counters = counters
        self.queue = queue
        self.tap = tap
        self._spread: float = 0.5
        # Event, header and wanted value, as they are compared.
        self.marks: tuple[tuple[str, bytes, bytes | None], ...] = tuple(
            (mark.event, mark.header.encode(), None if mark.value is None else mark.value.encode())
            for mark in tap.marks
        )
        # A bit for each mark whose header says a number.
        self.valued: int = sum(1 << index for index, mark in enumerate(tap.marks) if mark.bounds is not None)
        # What is counted of each mark when its header comes, whatever it says: then somebody reports the event.
        self.header_keys: tuple[str, ...] = tuple(samples.HEADER_SEEN + mark.event for mark in tap.marks)
        weight = counters.route.weight_bp / WEIGHT_BP_MAX
        split = 0.0 < weight < 1.0
        self.modest: bool = tap.modest
        self._share: float = tap.share if split or not tap.modest else 0.0
        self._predictions = Sampler(tap.samples_per_s, weight)
        compared = split and tap.failures_per_s > 0.0
        self._failures = Sampler(tap.failures_per_s, weight) if compared else None
        self._bytes = _Budget(_BYTES_PER_S)

    def begin(
        self, variant: Variant, method: bytes, path: bytes, request_id: bytes, draw: float, now_s: float
    ) -> ResponseSample | None:
        """A request was assigned: what will be looked at of its answer, if anything. ``draw`` is from [0, 1)."""
        share, purposes = self._share, 0
        if (
            draw < share
            and method == b"POST"
            and (not self.modest or self._bytes.left(now_s))
            and self._predictions.take(variant, draw / share, now_s)
        ):
            purposes = PREDICTIONS
        failures = self._failures
        if (
            failures is not None
            and method != b"HEAD"
            and failures.take(variant, draw, now_s, may=self._bytes.left(now_s))
        ):
            purposes |= FAILURES
        if not purposes and not self.marks and not self.tap.ids:
            return None
        return ResponseSample(self, variant, path, request_id, purposes)

    def next_draw(self) -> float:
        """A number from [0, 1) for rounding; evenly spread ones do, as nothing else looks at them."""
        self._spread = (self._spread + _GOLDEN) % 1.0
        return self._spread

    def count(self, variant: Variant, what: str) -> None:
        """Count what became of a sample."""
        counts = self._counters.totals[variant].samples
        counts[what] = counts.get(what, 0) + 1

    def spend(self, amount: int) -> None:
        """So many bytes were kept."""
        self._bytes.spend(amount)

    def finish(self, taken: ResponseSample) -> None:
        """The answer is whole and relayed."""
        evidence, variant = self._counters.evidence, taken.variant
        counts: Counts = self._counters.arms[variant]
        for index, (event, _, _) in enumerate(self.marks):
            if not self.valued >> index & 1:
                counts.label(event, taken.marked >> index & 1 == 1)
        if taken.values is not None:
            for event, cell in taken.values.items():
                counts.value(event, cell)
        if self.tap.ids:
            request_id = taken.request_id
            if not 0 < len(request_id) <= _ID_BYTES_MAX:
                self.count(variant, "without_id")
            elif not self.queue.put_served(_served(evidence, variant, request_id)):
                self.count(variant, "ids_dropped")

    def sample(self, taken: ResponseSample, part: Part) -> Sample:
        """What is kept of the answer, as it is sent."""
        counters = self._counters
        return Sample(
            counters.route.name,
            counters.evidence.epoch,
            counters.evidence.weight_bp,
            taken.variant,
            b"".join(taken.pieces),
            taken.content_type.decode("latin-1"),
            taken.encoding.decode("latin-1"),
            taken.header_length.decode("latin-1"),
            taken.purposes,
            taken.stream,
            part,
            taken.cut,
            taken.path[-_PATH_BYTES_MAX:].decode("latin-1"),
            taken.request if taken.purposes & PREDICTIONS else None,
        )


def _served(evidence: EpochCounts, variant: Variant, request_id: bytes) -> Served:
    return Served(evidence.route, evidence.epoch, evidence.weight_bp, variant, request_id.decode("latin-1"))


class ResponseSample:
    """What is kept of one answer while it is relayed. ``marked`` has a bit for each of the route's marks."""

    __slots__ = (
        "_limit",
        "_route_sampler",
        "_streamed",
        "answered",
        "body_bytes",
        "content_type",
        "cut",
        "encoding",
        "header_length",
        "kept_bytes",
        "marked",
        "path",
        "pieces",
        "purposes",
        "request",
        "request_id",
        "stream",
        "values",
        "variant",
    )

    def __init__(
        self, route_sampler: RouteSampler, variant: Variant, path: bytes, request_id: bytes, purposes: int
    ) -> None:
        self._route_sampler = route_sampler
        self.variant = variant
        self.path = path
        self.request_id = request_id
        # The request's body, where data are checked.
        self.request: bytes | None = None
        self.purposes = purposes
        self.answered = self.cut = self._streamed = False
        self.pieces: list[bytes] = []
        self.body_bytes = self.kept_bytes = self._limit = self.stream = 0
        self.content_type = self.encoding = self.header_length = b""
        self.marked = 0
        # Of marks that say a number: where on its grid it lies.
        self.values: dict[str, int] | None = None

    def keep_request(self, pieces: list[bytes] | None) -> None:
        """The request's body goes with the answer that is sampled for predictions, if it is in memory and no larger."""
        if self.purposes & PREDICTIONS and pieces is not None:
            size = sum([len(piece) for piece in pieces])
            if size <= self._route_sampler.tap.body_bytes_max:
                self.request = b"".join(pieces)
                self._route_sampler.spend(size)

    def head(self, status: int, lines: list[bytes]) -> None:
        """The response's head; ``lines`` together are the fields as they are passed on."""
        self.answered = 200 <= status < 300
        if not self.answered or status in _NO_BODY:
            self.purposes = 0
        if not self.answered:
            return
        marks = self._route_sampler.marks
        for line in b"".join(lines).split(b"\r\n"):
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip()
            if name == b"content-type":
                self.content_type = value
            elif name == b"content-encoding":
                # Several lines are one list.
                self.encoding = self.encoding + b"," + value if self.encoding else value
            elif name == b"inference-header-content-length":
                self.header_length = value
            if marks:
                self._mark(name, value)
        if self.purposes:
            self._bound(family_of(self.content_type.decode("latin-1")))

    def _mark(self, name: bytes, value: bytes) -> None:
        for index, (_, header, wanted) in enumerate(self._route_sampler.marks):
            if name == header:
                self._route_sampler.count(self.variant, self._route_sampler.header_keys[index])
                if self._route_sampler.valued >> index & 1:
                    self._value(index, value)
                    continue
                if wanted is None or wanted in [part.strip() for part in value.split(b",")]:
                    self.marked |= 1 << index

    def _value(self, index: int, said: bytes) -> None:
        """The number that a header says; what is no number is counted and no value."""
        mark = self._route_sampler.tap.marks[index]
        try:
            value = float(said)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or mark.bounds is None:
            self._route_sampler.count(self.variant, "not_a_number")
            return
        if self.values is None:
            self.values = {}
        self.values[mark.event] = cell_of(value, mark.bounds, self._route_sampler.next_draw())

    def _bound(self, family: str) -> None:
        """How much of the body is kept."""
        self._streamed = family in _STREAMS
        if self._streamed:
            self._limit = _STREAM_BYTES_MAX
            if self.purposes & PREDICTIONS:
                self._give_up(PREDICTIONS, "streamed")
        else:
            self._limit = _WHOLE_BYTES_MAX if family in _READ else _HEAD_BYTES
            if self.purposes & PREDICTIONS:
                self._limit = self._route_sampler.tap.body_bytes_max

    def body(self, piece: bytes) -> None:
        """A piece of the body."""
        if not self.purposes or self.cut:
            return
        self.body_bytes += len(piece)
        if self.body_bytes > self._limit:
            self._too_long(piece)
            return
        self.pieces.append(piece)
        self.kept_bytes += len(piece)
        if self.purposes & FAILURES or self._route_sampler.modest:
            self._route_sampler.spend(len(piece))
        if self._streamed and self.kept_bytes >= _PART_BYTES:
            self._send(Part.MORE)

    def _too_long(self, piece: bytes) -> None:
        if self.purposes & PREDICTIONS:
            self._give_up(PREDICTIONS, "too_large")
        self.cut = True
        if not self.purposes:
            self.pieces.clear()
        elif self._streamed:
            self._send(Part.LEFT)
        else:
            self.pieces.append(piece[: max(0, _HEAD_BYTES - self.kept_bytes)])

    def _give_up(self, purpose: int, why: str) -> None:
        self.purposes &= ~purpose
        self._route_sampler.count(self.variant, why)

    def _send(self, part: Part) -> None:
        """Send what is buffered, and empty the buffer."""
        queue, first = self._route_sampler.queue, self.stream == 0
        if part is Part.MORE and first:
            self.stream, part = queue.next_stream(), Part.FIRST
        put = queue.connected and queue.put(self._route_sampler.sample(self, part))
        self.pieces.clear()
        self.kept_bytes = 0
        if part not in _MORE or not put:
            result = "taken" if put else "dropped" if queue.connected else "away"
            self._route_sampler.count(self.variant, result)
            if put and self.purposes & PREDICTIONS:
                self._route_sampler.count(self.variant, samples.FOR_PREDICTIONS)
            self.purposes = 0
        if not put and not first:
            queue.lose(self._route_sampler.sample(self, Part.LOST))

    def finish(self) -> None:
        """The answer is whole."""
        if self.answered:
            self._route_sampler.finish(self)
            if self.purposes:
                self._send(Part.ENDED)

    def leave(self) -> None:
        """The answer ends before its time: its client left, or the backend broke off."""
        if self.answered and self.purposes & FAILURES:
            self.purposes = FAILURES
            self._send(Part.LEFT)


def route_sampler(route: Route, counters: EpochCounters, queue: SampleQueue) -> RouteSampler | None:
    """The route's tap; None where there is nothing to compare."""
    tap = route.tap
    if tap is None or route.canary is None:
        return None
    idle = not 0 < route.weight_bp < WEIGHT_BP_MAX
    if idle and (tap.modest or not tap.share) and not tap.ids and not tap.marks:
        return None
    return RouteSampler(counters, tap, queue)
