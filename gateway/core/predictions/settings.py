"""What is wanted of one route's answers: how they are read, what is looked for, and which labels may come."""

from __future__ import annotations

import msgspec

from gateway.core.predictions.events import WatchSettings
from gateway.core.predictions.labels import LabelSettings
from gateway.core.predictions.text_events import TextSettings

DATA_ROWS, DATA_WINDOWS = "data_rows", "data_windows"
"""The events of data checks: a request with its answer violates the suite, and a window of them does."""


class DataSettings(msgspec.Struct, frozen=True):
    """Windows of ``window_rows`` requests with their answers are judged by a program, each within ``timeout_s``."""

    command: tuple[str, ...]
    timeout_s: float = 120.0
    window_rows: int = 25


class RouteWatch(msgspec.Struct, frozen=True):
    """One route's settings; ``watch`` None: answers are not looked at, ``labels`` None: none are expected.

    ``failures``: answers are read for failures inside of them, and with ``texts`` for what a language model says;
    events ``reported`` by a header or by labels are not taken from there. ``paths`` are the outputs' places where
    these are named. An answer may unfold to ``decoded_bytes_max``.
    """

    protocol: str = "auto"
    paths: dict[str, str] = {}
    watch: WatchSettings | None = None
    labels: LabelSettings | None = None
    decoded_bytes_max: int = 1 << 20
    failures: bool = False
    data: DataSettings | None = None
    texts: TextSettings | None = None
    reported: tuple[str, ...] = ()
