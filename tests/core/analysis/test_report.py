"""Numbers of evidence for people, and decisions that a person can read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.analysis import AnalysisSpec, LatencySpec
from gateway.core.numbers import e_value

GOLDEN = Path(__file__).parents[2] / "golden" / "analysis" / "decisions.txt"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "1"),
        (math.log(20), "20"),
        (math.log(0.37), "0.37"),
        (math.log(1.2e5), "1.2e5"),
        (math.log(9.99e4), "1.0e5"),
        (math.log(3_141.59), "3142"),
        (-2_000.0, "2.6e-869"),
        (1e9, "8.0e434294481"),
    ],
)
def test_evidence_of_any_size_is_written_short(value: float, said: str) -> None:
    assert e_value(value) == said


def story(name: str, world: Any, ticks: int) -> list[str]:
    """What the judge said, whenever its verdict changed, with every finding at the end."""
    lines, last = [f"# {name}"], ""
    for _ in range(ticks):
        analysis = world.tick()
        if analysis.verdict != last:
            lines.append(f"{world.at_s:6.1f} s  {analysis.verdict}: {analysis.reason}")
            last = analysis.verdict
        if analysis.verdict in ("PASS", "FAIL"):
            break
    lines += [f"    {found.metric}: {found.verdict}: {found.reason}" for found in analysis.findings]
    return [*lines, ""]


def test_the_decisions_read_as_they_did(make_world: Callable[..., Any]) -> None:
    """The golden text; run with GOLDEN_UPDATE=1 to rewrite it after a wanted change, and read the difference."""
    quick = AnalysisSpec(latency=LatencySpec(slice_s=0.3))
    stories = []
    for name, errors, added_us, spec in (
        ("a healthy canary, slices of 0.3 s", (0.002, 0.002), 0, quick),
        ("a canary that fails a fifth of its requests", (0.002, 0.2), 0, AnalysisSpec()),
        ("a dead canary", (0.0, 1.0), 0, AnalysisSpec()),
        ("a canary slower by 40 ms", (0.0, 0.0), 40_000, AnalysisSpec()),
    ):
        world = make_world(2026, weight_bp=1_000, spec=spec)
        world.errors, world.added_us = list(errors), [0, added_us]
        stories += story(name, world, 400)
    text = "\n".join(stories)
    if os.environ.get("GOLDEN_UPDATE"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
