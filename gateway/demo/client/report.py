"""The client's settings, its measurements of each variant, and its reports of them."""

from __future__ import annotations

from collections import deque

import msgspec

VARIANTS = ("stable", "canary", "rescued")
_RECENT_S = 3.0


class ClientSettings(msgspec.Struct, frozen=True):
    """What the client is to do; it arrives as JSON on standard input.

    ``chat`` is the name of the model that is asked for streamed text; "": digits are sent.
    """

    host: str
    port: int
    path: str
    seed: int
    rate_per_s: float = 250.0
    connections: int = 64
    timeout_s: float = 10.0
    streams: float = 0.0
    stream_path: str = ""
    patience_s: float = 0.0
    chat: str = ""


class VariantReport(msgspec.Struct, frozen=True):
    """What was seen of one variant. Latencies and rate are of the last seconds, except in the last report: of all."""

    requests: int
    failed: int
    correct: int
    rate_per_s: float
    p50_ms: float | None
    p95_ms: float | None

    @property
    def accuracy(self) -> float | None:
        """The share of right labels among the good answers; None without any."""
        good = self.requests - self.failed
        return self.correct / good if good else None


class ClientReport(msgspec.Struct, frozen=True):
    """What users have seen so far. ``first_canary_s`` is when the first canary request was sent."""

    at_s: float
    requests: int
    failed: int
    variants: dict[str, VariantReport]
    failures: dict[str, int]
    first_canary_s: float | None = None
    final: bool = False


class VariantTally:
    """What was seen of one variant."""

    def __init__(self) -> None:
        self.requests = self.failed = self.correct = 0
        self._all_ms: list[float] = []
        self._recent: deque[tuple[float, float]] = deque()

    def add(self, now_s: float, latency_ms: float, *, failed: bool, correct: bool) -> None:
        """One request has come to its end."""
        self.requests += 1
        self.failed += failed
        self.correct += correct
        if not failed:
            self._all_ms.append(latency_ms)
            self._recent.append((now_s, latency_ms))

    def report(self, now_s: float, span_s: float, *, final: bool) -> VariantReport:
        """Sum up: the last seconds, or in the final report the whole ``span_s``."""
        while self._recent and self._recent[0][0] < now_s - _RECENT_S:
            self._recent.popleft()
        values = sorted(self._all_ms if final else [ms for _, ms in self._recent])
        window_s = span_s if final else min(span_s, _RECENT_S)
        rate_per_s = len(values) / window_s if window_s > 0 else 0.0
        return VariantReport(
            self.requests, self.failed, self.correct, rate_per_s, _quantile(values, 0.5), _quantile(values, 0.95)
        )


def _quantile(values: list[float], q: float) -> float | None:
    return values[min(int(q * len(values)), len(values) - 1)] if values else None
