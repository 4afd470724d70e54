"""What is wanted of one route's answers: how they are read, what is looked for, and which labels may come."""

from __future__ import annotations

import msgspec

from gateway.core.predictions.events import WatchSettings
from gateway.core.predictions.labels import LabelSettings


class RouteWatch(msgspec.Struct, frozen=True):
    """One route's settings; ``watch`` None: answers are not looked at, ``labels`` None: none are expected.

    ``failures``: answers are read for failures inside of them. ``paths`` are the outputs' places where these are
    named. An answer may unfold to ``decoded_bytes_max``.
    """

    protocol: str = "auto"
    paths: dict[str, str] = {}
    watch: WatchSettings | None = None
    labels: LabelSettings | None = None
    decoded_bytes_max: int = 1 << 20
    failures: bool = False
