"""Arithmetic of counts: cumulative, mergeable, and cheap enough for the request path."""

from __future__ import annotations

from gateway.core.stats.counts import Counts, EpochCounts
from gateway.core.stats.histogram import bucket_of, lower_us, upper_us

__all__ = ["Counts", "EpochCounts", "bucket_of", "lower_us", "upper_us"]
