"""What is asked of mirrored pairs: how much more the canary may do worse, and how much more is still good enough."""

from __future__ import annotations

import msgspec

from gateway.core.errors import InvalidValueError


class PairedSpec(msgspec.Struct, frozen=True):
    """The bounds of the comparison; "tolerance" and "margin" are those of spec.py.

    ``tolerance_delta`` and ``margin_delta`` are shares of the pairs that the canary alone fails, more than stable alone
    does. The latency ratios are of the canary's latency to stable's on the same request, in the middle of a slice.
    ``disagreement_*`` are shares of compared outputs. ``latency`` and ``outputs`` False: not judged.
    """

    tolerance_delta: float = 0.001
    margin_delta: float = 0.01
    latency: bool = True
    latency_tolerance_ratio: float = 1.25
    latency_margin_ratio: float = 1.5
    outputs: bool = True
    disagreement_tolerance: float = 0.05
    disagreement_margin: float = 0.1

    def __post_init__(self) -> None:
        """Raise InvalidValueError for bounds outside their domain."""
        for name, low, high in (
            ("tolerance_delta", 0.0, self.margin_delta),
            ("margin_delta", 0.0, 0.5),
            ("latency_tolerance_ratio", 1.0, self.latency_margin_ratio),
            ("latency_margin_ratio", 1.0, 30.0),
            ("disagreement_tolerance", 0.0, self.disagreement_margin),
            ("disagreement_margin", 0.0, 0.99),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidValueError(f"compare.{name} must be from {low:g} to {high:g}, not {value!r}")
        for name in ("margin_delta", "disagreement_margin"):
            if not getattr(self, name):
                raise InvalidValueError(f"compare.{name} must be greater than 0: no number of pairs proves less")
