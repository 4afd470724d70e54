"""Domains of the rules' parameters, checked where they are read (rules.py)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Positive = Annotated[float, Meta(ge=1e-3, le=1e9)]
PositiveCount = Annotated[int, Meta(ge=1, le=10**9)]
Count = Annotated[int, Meta(ge=0, le=10**9)]
Percent = Annotated[float, Meta(ge=0.01, le=100)]
Share = Annotated[float, Meta(ge=0, le=1)]
Confidence = Annotated[float, Meta(gt=0, lt=1)]
Factor = Annotated[float, Meta(ge=0, le=1e9)]
