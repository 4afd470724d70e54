"""Which build of the data plane runs: compiled, or interpreted from its source (setup.py)."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

COMPILED, INTERPRETED = "compiled", "interpreted"


@cache
def data_plane() -> str:
    """``compiled`` or ``interpreted``: what a worker of this installation runs. Imports none of it."""
    spec = find_spec("gateway.proxy.exchange")
    origin = spec.origin if spec is not None else None
    return INTERPRETED if origin is None or Path(origin).suffix == ".py" else COMPILED
