"""Every kind of metric, to the last bit: the e-values of recorded worlds, as hexadecimal floats.

tests/golden/analysis/bits.txt has a block for each world: what a seeded generator brings (whole numbers, so the same
on every machine), and at some looks the logarithms of E of each metric. A change of the engine's code that is meant
to change no e-value changes nothing here. ``GOLDEN_UPDATE=1 pytest tests/core/analysis/test_bits.py`` writes it anew,
after a wanted change of an e-value, which docs/decisions/ explains.

The last bit of exp and log is the C library's. The first line of the file is what this library gives for some
arguments; where another one gives something else, numbers are compared to nine digits.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.analysis import (
    Analysis,
    AnalysisSpec,
    EventSpec,
    Evidence,
    GuardrailSpec,
    LatencySpec,
    Mode,
    RateSpec,
    bake,
    fresh_state,
    judge,
)
from gateway.core.analysis.spec import ANSWERS, Unit, Worse
from gateway.core.stats import Counts, EpochCounts, bucket_of
from gateway.core.stats.counts import SESSION_EVENTS

GOLDEN = Path(__file__).parents[2] / "golden" / "analysis" / "bits.txt"
LOOKS = (1, 2, 5, 15, 40, 90, 150, 220)
EVERY_KIND = AnalysisSpec(
    latency=LatencySpec(slice_s=0.5, slo_us=(9_000, 40_000)),
    duration=LatencySpec(slice_s=0.3, quantiles=(0.5, 0.9), margin_delta=0.1),
    gap=LatencySpec(mode=Mode.AUTO, slice_s=0.3),
    time_per_event=LatencySpec(mode=Mode.ADVISE, slice_s=0.4),
    client_errors=RateSpec(tolerance_ratio=1.3, tolerance_delta=0.002),
    overload=RateSpec(tolerance_delta=0.01),
    redirects=RateSpec(mode=Mode.ADVISE),
    unauthorized=RateSpec(mode=Mode.OFF),
    events=(
        EventSpec("refused", tolerance_ratio=1.2, guarded=True),
        EventSpec("won", worse=Worse.LOWER, unit=Unit.SLICE, slice_s=0.3),
        EventSpec("flagged", worse=Worse.DIFFERENT, margin_delta=0.1),
        EventSpec("clumped", worse=Worse.DIFFERENT, unit=Unit.SLICE, tolerance_ratio=1.1, tolerance_delta=0.01),
        EventSpec("class_0", worse=Worse.DIFFERENT, group=ANSWERS, mode=Mode.AUTO),
        EventSpec("class_1", worse=Worse.DIFFERENT, group=ANSWERS, mode=Mode.AUTO),
        EventSpec("fewer", worse=Worse.LOWER, mode=Mode.ADVISE),
    ),
    guardrails=(
        GuardrailSpec("errors", 0.05),
        GuardrailSpec("latency", 0.1, threshold_us=20_000, slice_s=0.5),
        GuardrailSpec("won", 0.5, mode=Mode.ADVISE),
    ),
    bake_share=0.2,
)
WORLDS = {
    "equal versions": (11, EVERY_KIND, 0.0),
    "a canary that fails, is slow and answers differently": (12, EVERY_KIND, 0.06),
    "equal versions, by session": (13, AnalysisSpec(sticky=True, alpha_sample_ratio=0.0), 0.0),
    "a failing canary, by session": (14, AnalysisSpec(sticky=True, alpha_sample_ratio=0.0), 0.1),
    "nothing guards against bursts": (15, AnalysisSpec(burst_s=0.0), 0.03),
}


def request(counts: Counts, rng: random.Random, worse: float, sticky: bool) -> None:
    """One request of an arm, its outcome, its latencies and its labels; whole numbers throughout."""
    counts.assigned += 1
    counts.requests += 1
    draw, outcome = rng.random(), ""
    for name, rate in (("errors", 0.01 + worse), ("client_errors", 0.02), ("overload", 0.01), ("other_success", 0.2)):
        if not outcome and draw < rate:
            outcome = name
        draw -= rate
    if outcome:
        counts.enter(outcome)
    latency_us = int(3_000 * (1 + 4 * rng.random() ** 4) * (1 + 3 * worse))
    for histogram, factor in ((counts.latency, 1), (counts.duration, 2), (counts.time_per_event, 3)):
        bucket = bucket_of(latency_us * factor)
        histogram[bucket] = histogram.get(bucket, 0) + 1
    if rng.random() < 0.3:
        left = bucket_of(latency_us * 5)
        counts.gap[left] = counts.gap.get(left, 0) + 1
    elif rng.random() < 0.01:
        counts.requests += 1
        counts.assigned += 1
        counts.enter("abandoned")
        bucket = bucket_of(latency_us * 2)
        counts.aborted[bucket] = counts.aborted.get(bucket, 0) + 1
    kind = rng.random() < 0.4 + 3 * worse
    for name, happened in (
        ("refused", rng.random() < 0.03 + worse),
        ("won", rng.random() < 0.3 - worse),
        ("flagged", rng.random() < 0.15),
        ("clumped", rng.random() < 0.1 + worse),
        ("class_0", kind),
        ("class_1", not kind),
        ("fewer", rng.random() < 0.5),
    ):
        counts.label(name, happened)
    if sticky and rng.random() < 0.4:
        for name, label in SESSION_EVENTS.items():
            counts.label(label, name == outcome)


def looks(world: str) -> Iterator[tuple[str, Analysis]]:
    """The looks of a world that are written down; the last third is a bake."""
    seed, spec, worse = WORLDS[world]
    rng, state, epochs = random.Random(seed), fresh_state(spec), [EpochCounts("r", 1, 1_000)]
    for tick in range(1, max(LOOKS) + 1):
        if tick in (60, 120):
            epochs.append(EpochCounts("r", len(epochs) + 1, 1_000 * len(epochs) + 2_000))
        if tick == 160:
            state = bake(state, 30.0)
        for _ in range(rng.randrange(24)):
            entry = epochs[-1 if rng.random() < 0.9 else 0]
            arm = rng.randrange(10_000) < entry.weight_bp
            request(entry.canary if arm else entry.stable, rng, worse if arm else 0.0, spec.sticky)
        state, analysis = judge(spec, state, Evidence(0.1 * tick, tuple(epochs)))
        if tick in LOOKS:
            yield f"{0.1 * tick:.1f} s", analysis


def lines(world: str) -> Iterator[str]:
    yield f"# {world}"
    for when, analysis in looks(world):
        yield f"{when} {analysis.verdict} {analysis.log_e_bad.hex()} {','.join(analysis.causes) or '-'}"
        for one in analysis.findings:
            needed = one.details["log_e_bad_needed"].hex()
            yield f"  {one.metric} {one.verdict} {one.log_e_bad.hex()} {one.log_e_ok.hex()} {needed}"


def library() -> str:
    """What this machine's C library makes of some arguments."""
    values = (0.013, 0.37, 1.7, 19.3)
    return " ".join(f(x).hex() for x in values for f in (math.exp, math.log, math.log1p, math.lgamma, math.log2))


def words(line: str) -> list[Any]:
    """A line's words, hexadecimal floats as numbers that are equal to about nine digits."""
    return [pytest.approx(float.fromhex(w), 1e-9, 1e-9) if "0x" in w else w for w in line.split(" ")]


def recorded() -> dict[str, list[str]]:
    """The blocks of the golden file by world, the library's line under the empty name."""
    blocks: dict[str, list[str]] = {}
    name = ""
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        name = line.removeprefix("# ") if line.startswith("# ") else name
        blocks.setdefault(name, []).append(line)
    return blocks


def test_every_kind_of_metric_is_in_the_record() -> None:
    if os.environ.get("GOLDEN_UPDATE"):
        GOLDEN.write_text("\n".join([library(), *(line for world in WORLDS for line in lines(world))]) + "\n")
    verdicts = {line.split()[1] for block in recorded().values() for line in block if line.startswith("  ")}
    assert set(recorded()) == {"", *WORLDS} and verdicts == {"PASS", "FAIL", "UNDECIDED", "NODATA"}


@pytest.mark.parametrize("world", WORLDS)
def test_e_values_are_the_recorded_ones_to_the_last_bit(world: str) -> None:
    known, found = recorded(), list(lines(world))
    if known[""] == [library()]:
        assert found == known[world]
    else:
        for line, expected in zip(found, known[world], strict=True):
            assert [float.fromhex(w) if "0x" in w else w for w in line.split(" ")] == words(expected)
