"""What an attempt came to: its class and its latencies, which counters, evidence and the log line read. Pure.

Rules:

1. An attempt has a class (`gateway.core.stats.outcomes`): its answer's by status and route, or its failure's. Two more
   are known here alone, and are no evidence: a stale connection, and a trial of an ejected endpoint that had less than
   the route's time.
2. Only the backend's doing is its variant's failure. A failure of the client or the gateway counts for none; a request
   for which the gateway has no endpoint, no room or no descriptors is counted apart (*unserved*). A full queue is its
   backend's overload, unless ejections or probes keep some of the backend's endpoints out.
3. The latency that is judged ends with the answer's head; of a stream with its first event. As long as that is to come
   it lasts until now, and `waited` says so: what was not over has lasted at least so long.
4. Latencies count from when the attempt was sent, the duration from when the request was whole.
"""

from __future__ import annotations

from typing import Final

from gateway.core.errors import Blame
from gateway.core.stats.outcomes import EMPTY, ERRORS, OK, OVERLOAD, PLAIN
from gateway.proxy.exchange.stream_times import StreamTimes
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault

# Classes that are no evidence: totals for metrics alone have them.
STALE: Final = "stale"
TRIAL: Final = "trial"
# What a fault is when it is no class at all.
NOBODYS: Final = ""
UNSERVED: Final = "unserved"


def elapsed_us(since_s: float, until_s: float) -> int:
    """Microseconds from one time to another; a clock that stood still gives none that is negative."""
    return max(0, int((until_s - since_s) * 1e6))


def latency_us(now_s: float, *, since_s: float, head_s: float, stream: StreamTimes | None) -> int:
    """The latency that is judged of an attempt that was sent at ``since_s`` and ends now (rule 3).

    ``head_s``: when its answer's head came; 0 if it did not.
    """
    return elapsed_us(since_s, (head_s if stream is None else stream.first_s) or now_s)


def waited(*, head_s: float, stream: StreamTimes | None) -> bool:
    """Whether what that latency ends with has not come yet (rule 3)."""
    return (head_s if stream is None else stream.first_s) == 0.0


def kind_of_answer(outcomes: list[str], status: int, *, empty: bool, head_only: bool) -> str:
    """The class of an answer: that of its status on this route, but for a 200 that has nothing to say."""
    kind = outcomes[status]
    return EMPTY if empty and kind == OK and status == PLAIN and not head_only else kind


def kind_of_fault(fault: Fault, *, hurried: bool, short: bool) -> str:
    """The class of a failure, or TRIAL, UNSERVED, NOBODYS (rules 1 and 2).

    ``hurried``: it had less than the route's time; ``short``: some of its backend's endpoints are kept out.
    """
    if fault.blame is Blame.UPSTREAM:
        return TRIAL if hurried and fault is gateway_errors.FIRST_BYTE_TIMEOUT else ERRORS
    if fault in gateway_errors.OF_OVERLOAD and not short:
        return OVERLOAD
    return UNSERVED if fault in gateway_errors.OF_THE_GATEWAY else NOBODYS
