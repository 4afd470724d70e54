"""What cumulative counts have gained since they were last seen, told and checked in one pass over each histogram.

Rules:

1. What was seen before was checked then. So what is true of the new part alone is true of the whole: every condition of
   `counts.check` is a sum's (no negative ones, no more classed, entries or events than requests or trials).
2. Only names that were not known have to be looked at one by one.
3. Whatever is not plainly true is None here: then `counts.check` and `counts.delta` look closer, and say what is wrong.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import repeat
from operator import le

from gateway.core.stats.counts import (
    HISTOGRAMS,
    LABEL_LENGTH_MAX,
    LABELS_MAX,
    PER_REQUEST,
    Counts,
    Key,
)
from gateway.core.stats.histogram import BUCKET_MAX
from gateway.core.stats.outcomes import NAMES

# Beyond this, floats no longer tell neighbouring counts apart.
COUNT_MAX = 1 << 53


def gained(new: Counts, old: Counts, unread: Collection[str] = ()) -> Counts | None:
    """What was added to ``old``, which was checked; None for what cannot be told to be true at a glance.

    ``unread`` histograms were not kept in ``old``; they are checked, and not in the answer.
    """
    try:
        out = _numbers(new, old)
        if out is None or not _outcomes(out, new, old) or not _histograms(out, new, old, unread):
            return None
        return out if _labels(out, new, old) else None
    except TypeError:
        # Something that is no number, or that cannot be a name.
        return None


def _numbers(new: Counts, old: Counts) -> Counts | None:
    numbers = (new.requests, new.assigned)
    if {*map(type, numbers)} != {int} or max(numbers) > COUNT_MAX or 0 < new.assigned < new.requests:
        return None
    requests, assigned = new.requests - old.requests, new.assigned - old.assigned
    return None if min(requests, assigned) < 0 else Counts(requests, assigned=assigned)


def _outcomes(out: Counts, new: Counts, old: Counts) -> bool:
    if not new.outcomes and not old.outcomes:
        return type(new.outcomes) is dict
    more = _more(new.outcomes, old.outcomes)
    if more is None or any(name not in NAMES for name in more[1]):
        return False
    out.outcomes = more[0]
    return sum(more[0].values()) <= out.requests


def _histograms(out: Counts, new: Counts, old: Counts, unread: Collection[str]) -> bool:
    for name in HISTOGRAMS:
        now, before = getattr(new, name), getattr(old, name)
        if type(now) is not dict:
            return False
        if name in unread:
            if now and not _stands_alone(name, now, new.requests):
                return False
            continue
        if not now and not before:
            continue
        more = _more(now, before)
        # 3.0 equals the 3 that is known, and is no bucket; a sum is a whole number only when all its parts are.
        if more is None or type(sum(now)) is not int or not _buckets(more[1]):
            return False
        setattr(out, name, more[0])
    return all(sum(getattr(out, name).values()) <= out.requests for name in PER_REQUEST)


def _stands_alone(name: str, histogram: dict[int, int], requests: int) -> bool:
    """Whether a histogram of which nothing is remembered can be true."""
    whole = sum(histogram.values())
    limit = min(requests, COUNT_MAX) if name in PER_REQUEST else COUNT_MAX
    return type(whole) is int and whole <= limit and min(histogram.values()) >= 0 and _buckets(histogram)


def _buckets(names: Collection[int]) -> bool:
    return not names or ({*map(type, names)} == {int} and min(names) >= 0 and max(names) <= BUCKET_MAX)


def _labels(out: Counts, new: Counts, old: Counts) -> bool:
    trials, events = _more(new.trials, old.trials), _more(new.events, old.events)
    if trials is None or events is None or len(new.trials) > LABELS_MAX:
        return False
    out.trials, out.events = trials[0], events[0]
    names = [*trials[1], *events[1]]
    if names and not ({*map(type, names)} == {str} and all(0 < len(name) <= LABEL_LENGTH_MAX for name in names)):
        return False
    return all(map(le, out.events.values(), map(out.trials.get, out.events, repeat(0))))


def _more(new: dict[Key, int], old: dict[Key, int]) -> tuple[dict[Key, int], list[Key]] | None:
    """What grew, by how much, and the names that were not known; None unless whole numbers that only grew."""
    if type(new) is not dict:
        return None
    names, known = list(new), list(old)
    fresh: list[Key] = names[len(known) :]
    if names[: len(known)] == known:
        before = [*old.values(), *repeat(0, len(fresh))]
    elif old.keys() <= new.keys():
        before = list(map(old.get, names, repeat(0)))
        fresh = [name for name in names if name not in old]
    else:
        return None
    whole = sum(new.values())
    added = {name: n - b for name, n, b in zip(names, new.values(), before, strict=True) if n != b}
    # A sum is a whole number only when all its parts are.
    if type(whole) is not int or whole > COUNT_MAX or (added and min(added.values()) < 0):
        return None
    return added, fresh
