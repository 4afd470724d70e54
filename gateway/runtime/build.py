"""Which build of the data plane runs: compiled, or interpreted from its source (setup.py)."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

COMPILED, INTERPRETED = "compiled", "interpreted"


@cache
def data_plane() -> str:
    """``compiled`` or ``interpreted``: what a worker of this installation runs. Imports none of it."""
    spec = find_spec("gateway.proxy.exchange.exchange")
    origin = spec.origin if spec is not None else None
    return INTERPRETED if origin is None or Path(origin).suffix == ".py" else COMPILED


def described() -> str:
    """The same for people: what the slower one costs, and what to do about it."""
    if data_plane() == COMPILED:
        return COMPILED
    how = "install a C compiler and Python's headers, then the package again (not editable)"
    return f"{INTERPRETED}: about twice the CPU; to compile it, {how}"
