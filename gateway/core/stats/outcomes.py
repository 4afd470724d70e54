"""Outcome classes: what the answer to a request counts as. The one declaration; everything else derives from it.

Rules:

1. Requests are assigned at random, so any difference in the mix of answers is the version's doing. Every status is in a
   class, every class but ``ok`` is compared with stable, and none is excused by itself. A route may exempt statuses
   that are ordinary answers there (`analysis.exempt_statuses`): they count as ``ok``, in both variants alike.
2. Of a *failure* more is worse, and fewer are no harm. A *success* in another form (201, 204) is neither: more
   and fewer are both a change that clients notice, unless failures explain it (core/analysis/trials.py).
3. A request has one class. Its status decides, with two exceptions: a client that left before the answer was whole
   (``abandoned``, unless the head was already a failure), and a 200 without content (``empty_body``). What the
   gateway itself broke or cut has none.
4. A new class is a line here, and its field in AnalysisSpec and MetricShares (a test holds them together). The
   configuration, its documentation and its JSON Schema are made from this table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

OK: Final = "ok"
ERRORS: Final = "errors"
OVERLOAD: Final = "overload"
ABANDONED: Final = "abandoned"
EMPTY: Final = "empty_body"
NO_CONTENT: Final = "no_content"


class OutcomeClass(NamedTuple):
    """One class: its name in evidence, configuration and metrics; which answers are in it, in words; and its statuses.

    ``statuses`` are single ones; ``hundreds`` takes what is left of 300 to 399 and the like. ``success``: see rule 2.
    ``rare``: where it has no margins of its own, those of ``errors`` count. ``note`` says what is typically behind it.
    """

    name: str
    answers: str
    statuses: tuple[int, ...] = ()
    hundreds: tuple[int, ...] = ()
    success: bool = False
    rare: bool = False
    note: str = ""


CLASSES: Final = (
    OutcomeClass(
        ERRORS,
        "5xx but 503, refused and reset connections, timeouts, malformed and truncated answers, statuses that HTTP does"
        " not know",
        hundreds=(0, 1, 5, 6, 7, 8, 9),
    ),
    OutcomeClass("client_errors", "4xx that are in no other class", hundreds=(4,)),
    OutcomeClass(OVERLOAD, "429, 503, a full queue", statuses=(429, 503)),
    OutcomeClass("unauthorized", "401, 403, 407", statuses=(401, 403, 407), rare=True, note="a lost key"),
    OutcomeClass(
        "not_found", "404, 410", statuses=(404, 410), rare=True, note="a wrong model name, a model that is not loaded"
    ),
    OutcomeClass("redirects", "3xx, 304 among them", hundreds=(3,), rare=True, note="a login page"),
    OutcomeClass(EMPTY, "200 without content (not to HEAD)", rare=True),
    OutcomeClass(
        ABANDONED, "the client left before the answer was whole", rare=True, note="it never began, or stopped half-way"
    ),
    OutcomeClass(NO_CONTENT, "204, 205", statuses=(204, 205), success=True, rare=True),
    OutcomeClass(
        "other_success",
        "101 (a tunnel), 201, 202 and other 2xx but 200",
        statuses=(101,),
        hundreds=(2,),
        success=True,
        rare=True,
    ),
)
NAMES: Final = tuple(one.name for one in CLASSES)
FAILURES: Final = tuple(one.name for one in CLASSES if not one.success)
SUCCESSES: Final = tuple(one.name for one in CLASSES if one.success)
# An answer without what was asked for: in place of the canary's, stable's may be of more use to the client.
LACKING: Final = frozenset((*FAILURES, NO_CONTENT))
# Outcomes that the backend caused; of these, the ones that mean that it is broken or overloaded.
ANSWERED: Final = (OK, *(name for name in NAMES if name != ABANDONED))
UNAVAILABLE: Final = (ERRORS, OVERLOAD)
STATUS_MAX: Final = 999
# The status of an answer as asked, which is in no class that is compared.
PLAIN: Final = 200


def _by_status() -> tuple[str, ...]:
    single = {status: one.name for one in CLASSES for status in one.statuses} | {PLAIN: OK}
    hundreds = {hundred: one.name for one in CLASSES for hundred in one.hundreds}
    return tuple(single.get(status) or hundreds[status // 100] for status in range(STATUS_MAX + 1))


_BY_STATUS: Final = _by_status()


def by_status(exempt: Iterable[int] = ()) -> list[str]:
    """The class of each status from 0 to 999; ``exempt`` ones are ``ok``."""
    classes = list(_BY_STATUS)
    for status in exempt:
        classes[status] = OK
    return classes
