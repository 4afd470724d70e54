"""Stable's past: how often a version that is sound has a bad moment, and how long it lasts.

The gateway serves stable for hours before a rollout begins. What its failures did in time says what a healthy canary's
will do: a moment is a stretch in which an arm fails far more than usual, by itself (a restart, a pause, a neighbour).
One `StablePast` is kept for each failure class of a route, fed with what each look saw of stable.

Rules:

1. The usual failure rate r leaves out what moments explain; it is halved in weight when it grows old. A stretch is
   scored by the likelihood of failures at `MOMENT_ODDS` times the usual odds over that of the usual rate (a CUSUM): it
   begins when the score rises above 0, it lasts until the score was highest, and it is a moment if that was at least
   `SURE` nats: three failures in a row where failures are rare. It is over when what followed is likelier by `OVER`
   nats at the usual rate than at the stretch's own.
2. What lasts for more than `LONGEST_S` is no moment but an outage: it becomes usual, and it excuses no canary.
3. Known is only time with requests: each speaks for the time since the one before, at most `IDLE_S`. Looks that are
   more than `GAP_S` apart, as over a restart, know nothing of the time between them.
4. Numbers are halved after `MEMORY_S` of known time: last week's moments do not speak for today's.
   Lengths are kept by half octaves from `SHORTEST_S` on; the longest that counts leaves out one in a hundred, because
   two moments that meet look like one.
5. What is said to the engine (`Weather`) is frozen when a rollout begins, before its evidence is looked at.
"""

from __future__ import annotations

import math

import msgspec

from gateway.core.analysis.bursts import guard

MOMENT_ODDS = 20.0
SURE = 8.0
OVER = 5.0
LONGEST_S = 15.0
GAP_S = 10.0
IDLE_S = 1.0
# More than a guess needs: a usual rate that is taken for too low makes moments of nothing.
PRIOR_EVENTS = 2.0
MEMORY_S = 6.0 * 3600.0
PAST_MAX = 20_000.0
SHORTEST_S = 0.1
LENGTHS = 16
LEFT_OUT = 0.01
FORGOTTEN = 0.25
_RATE_MIN, _RATE_MAX = 1e-5, 0.9
_OWN_MAX = 0.95


class Stretch(msgspec.Struct, frozen=True):
    """Failures that may be a moment: until its score was highest, and what followed."""

    since_s: float
    until_s: float
    score: float
    top: float
    events: float
    trials: float
    later_events: float = 0.0
    later_trials: float = 0.0


class StablePast(msgspec.Struct, frozen=True):
    """What is known of stable's failures of one class: the usual rate, and its moments.

    ``at_s`` is the time of the newest look, ``seen_s`` of the newest request, ``ended_s`` the end of the newest moment,
    ``apart_s`` the shortest time between two (0: there were no two), ``lengths`` how many moments there were of each
    length, ``total_s`` how long all lasted together.
    """

    at_s: float | None = None
    seen_s: float = 0.0
    known_s: float = 0.0
    events: float = 0.0
    trials: float = 0.0
    total_s: float = 0.0
    ended_s: float | None = None
    apart_s: float = 0.0
    stretch: Stretch | None = None
    lengths: tuple[float, ...] = (0.0,) * LENGTHS

    @property
    def moments(self) -> float:
        """How many moments there were."""
        return sum(self.lengths)

    @property
    def rate(self) -> float:
        """The usual failure rate."""
        rate = (self.events + PRIOR_EVENTS) / (self.trials + guard.PRIOR_TRIALS)
        return min(max(rate, _RATE_MIN), _RATE_MAX)


class Weather(msgspec.Struct, frozen=True):
    """What a rollout is told of stable's moments: so many in ``known_s`` seconds, their mean and greatest length.

    ``apart_s`` is the shortest time that was seen between two of them; 0 where there were no two.
    """

    known_s: float = 0.0
    moments: float = 0.0
    mean_s: float = 0.0
    longest_s: float = 0.0
    apart_s: float = 0.0

    @property
    def per_hour(self) -> float:
        """How often moments come; 0 where nothing is known."""
        return 3600.0 * self.moments / self.known_s if self.known_s else 0.0


def weather(past: StablePast) -> Weather:
    """What is known by now."""
    moments = past.moments
    mean_s = past.total_s / moments if moments else 0.0
    return Weather(past.known_s, moments, mean_s, _longest_s(past.lengths), past.apart_s)


def add(past: StablePast, at_s: float, requests: int, failures: int) -> StablePast:
    """The past with one look at stable more: its new requests and failures (of one class), at ``at_s`` seconds.

    Looks are 0.1 to 1 s apart; they are added when they had no request, too.
    """
    if past.at_s is None or not 0.0 < at_s - past.at_s <= GAP_S:
        # The clock of another process, or a gap: times from before say nothing.
        return msgspec.structs.replace(past, at_s=at_s, seen_s=at_s, ended_s=None, stretch=None)
    stretch, before_s = past.stretch, past.at_s
    if not requests:
        return msgspec.structs.replace(past, at_s=at_s)
    known_s = past.known_s + min(at_s - past.seen_s, IDLE_S)
    if stretch is None and not failures:
        return _learnt(past, 0.0, requests, at_s, known_s)
    rate = past.rate
    odds = MOMENT_ODDS * rate / (1.0 - rate)
    bad = odds / (1.0 + odds)
    good = requests - failures
    gain = failures * math.log(bad / rate) + good * math.log((1.0 - bad) / (1.0 - rate))
    if stretch is None:
        if gain <= 0.0:
            return _learnt(past, failures, requests, at_s, known_s)
        stretch = Stretch(before_s, at_s, gain, gain, failures, requests)
        return msgspec.structs.replace(past, at_s=at_s, seen_s=at_s, known_s=known_s, stretch=stretch)
    score, later_events, later_trials = (
        stretch.score + gain,
        stretch.later_events + failures,
        stretch.later_trials + requests,
    )
    if score > stretch.top:
        events, trials = stretch.events + later_events, stretch.trials + later_trials
        stretch = Stretch(stretch.since_s, at_s, score, score, events, trials)
    else:
        stretch = Stretch(
            stretch.since_s,
            stretch.until_s,
            score,
            stretch.top,
            stretch.events,
            stretch.trials,
            later_events,
            later_trials,
        )
    if score > 0.0 and not _over(stretch, rate):
        if at_s - stretch.since_s > LONGEST_S:
            events, trials = stretch.events + stretch.later_events, stretch.trials + stretch.later_trials
            return _learnt(past, events, trials, at_s, known_s, Stretch(stretch.since_s, at_s, 0.0, 0.0, 0.0, 0.0))
        return msgspec.structs.replace(past, at_s=at_s, seen_s=at_s, known_s=known_s, stretch=stretch)
    return _closed(past, stretch, at_s, known_s)


def _over(stretch: Stretch, rate: float) -> bool:
    """Whether what followed the stretch is the usual again."""
    if not stretch.later_trials:
        return False
    own = min(max(stretch.events / stretch.trials, rate), _OWN_MAX)
    if own <= rate:
        return True
    events, none = stretch.later_events, stretch.later_trials - stretch.later_events
    return none * math.log((1.0 - rate) / (1.0 - own)) - events * math.log(own / rate) >= OVER


def _closed(past: StablePast, stretch: Stretch, at_s: float, known_s: float) -> StablePast:
    """With a stretch that is over: a moment, or some failures that came together by chance."""
    length_s = stretch.until_s - stretch.since_s
    if stretch.top < SURE or length_s > LONGEST_S:
        events, trials = stretch.events + stretch.later_events, stretch.trials + stretch.later_trials
        return _learnt(past, events, trials, at_s, known_s, None)
    apart_s = past.apart_s
    if past.ended_s is not None:
        gap_s = max(stretch.since_s - past.ended_s, 1e-3)
        apart_s = min(apart_s, gap_s) if apart_s else gap_s
    which = _length(length_s)
    lengths = tuple(many + 1.0 if i == which else many for i, many in enumerate(past.lengths))
    past = msgspec.structs.replace(
        past, lengths=lengths, total_s=past.total_s + length_s, ended_s=stretch.until_s, apart_s=apart_s
    )
    return _learnt(past, stretch.later_events, stretch.later_trials, at_s, known_s, None)


def _length(length_s: float) -> int:
    """Which of `LENGTHS` half octaves: the first whose end is not exceeded (but for a rounding)."""
    return min(max(math.ceil(2.0 * math.log2(length_s / SHORTEST_S) - 0.02), 0), LENGTHS - 1)


def _longest_s(lengths: tuple[float, ...]) -> float:
    """The end of the longest half octave that counts; 0 without a moment."""
    left = LEFT_OUT * sum(lengths)
    for which in range(LENGTHS - 1, -1, -1):
        left -= lengths[which]
        if left < 0.0:
            return float(SHORTEST_S * 2.0 ** (0.5 * which))
    return 0.0


def _learnt(
    past: StablePast, events: float, trials: float, at_s: float, known_s: float, stretch: Stretch | None = None
) -> StablePast:
    """With usual requests, of which so many failed."""
    events, trials = past.events + events, past.trials + trials
    if trials > PAST_MAX:
        scale = 0.5 * PAST_MAX / trials
        events, trials = events * scale, trials * scale
    total_s, apart_s, lengths = past.total_s, past.apart_s, past.lengths
    if known_s > MEMORY_S:
        known_s, total_s, lengths = 0.5 * known_s, 0.5 * total_s, tuple(0.5 * many for many in lengths)
        if sum(lengths) < FORGOTTEN:
            total_s, apart_s, lengths = 0.0, 0.0, (0.0,) * LENGTHS
    return StablePast(at_s, at_s, known_s, events, trials, total_s, past.ended_s, apart_s, stretch, lengths)
