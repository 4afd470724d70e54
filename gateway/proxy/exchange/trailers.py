"""The fields behind the bodies of a request and of its answer (heads/trailers.py has the rules).

They are kept only where the client takes trailers; all others are dropped as they come, and counted.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.proxy.counting.counters import WorkerCounters
from gateway.proxy.heads.trailers import permitted

_NO_WEIGHT: Final = re.compile(rb"q=0(?:\.0{0,3})?")


class Trailers:
    """Those of one exchange; ``announced`` are the values of the request's Trailer."""

    __slots__ = ("_counts", "_fields_max", "announced", "of_answer", "of_request")

    def __init__(self, announced: list[bytes], counts: WorkerCounters, fields_max: int) -> None:
        self.announced = announced
        self._counts = counts
        self._fields_max = fields_max
        self.of_request: list[tuple[bytes, bytes]] = []
        self.of_answer: list[tuple[bytes, bytes]] = []

    def add(self, kept: list[tuple[bytes, bytes]], name: bytes, value: bytes) -> bool:
        """Keep one more; False when there are too many."""
        kept.append((name, value))
        return len(kept) <= self._fields_max

    def lines(self, kept: list[tuple[bytes, bytes]]) -> list[bytes]:
        """Those that may be passed on, as lines."""
        lines = permitted(kept)
        self._counts.trailers_passed += len(lines)
        self._counts.trailers_dropped += len(kept) - len(lines)
        return lines


def accepts_trailers(te: bytes) -> bool:
    """Whether a TE field accepts trailers: a weight of zero declines them (RFC 9110, 10.1.4 and 12.4.2).

    >>> [accepts_trailers(te) for te in (b"trailers", b"gzip, Trailers;q=0.1", b"trailers;q=0", b"trailers; Q=0.000")]
    [True, True, False, False]
    """
    for coding in te.split(b","):
        name, _, parameters = coding.partition(b";")
        if name.strip().lower() == b"trailers":
            return _NO_WEIGHT.fullmatch(parameters.strip().lower()) is None
    return False
