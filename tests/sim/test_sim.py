"""Seeds through the simulation. A failure names its seed and the command that repeats it alone.

SIM_SEEDS=7 pytest tests/sim            one seed
SIM_SEEDS=0:10000 pytest tests/sim      a range (make nightly)
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import pytest

from tests.sim.world import World
from tests.support.virtual import run

# As many as the test command has time for.
SEEDS = "0:60"
MOMENTS = 80
SHARDS = 4


def seeds(text: str) -> range:
    """``7`` or ``0:100``."""
    first, _, end = text.partition(":")
    return range(int(first), int(end) if end else int(first) + 1)


def live(seed: int, patch: pytest.MonkeyPatch) -> World:
    """One seed's whole life; its error says how to repeat it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        world = World(
            Path(directory), seed, lambda made: patch.setattr("gateway.control.journal.writer.DiskThread", made)
        )
        try:
            run(world.live(MOMENTS))
        except BaseException as error:
            again = f"repeat it alone: SIM_SEEDS={seed} python -m pytest -x tests/sim"
            error.add_note("\n".join([*world.log[-60:], f"seed {seed}, after {world.events} events; {again}"]))
            raise
    return world


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_promise_holds_whatever_happens(shard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is logged of thousands of lives is for nobody.
    monkeypatch.setattr(logging.getLogger("gateway.control"), "disabled", True)
    chosen = seeds(os.environ.get("SIM_SEEDS", SEEDS))[shard::SHARDS]
    worlds = [live(seed, monkeypatch) for seed in chosen]
    sums = [sum(getattr(world, name) for world in worlds) for name in ("events", "published", "decided", "crashes")]
    print("{} seeds: {} events, {} tables, {} decisions at rest, {} deaths".format(len(worlds), *sums))
