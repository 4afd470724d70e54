"""What the default tolerances make of real models: the wrong one is convicted, better and recalibrated ones are not.

Answers are those of the bundled ONNX models for held-out inputs, in the bytes that the model server sends; from there
on everything is the real thing (decoder, watch, counts, judge) but for sockets and time.
"""

from __future__ import annotations

import functools
import random

import msgspec
import numpy as np
import pytest

from gateway import bundled
from gateway.config.predictions import PREDICTED, PredictionsConfig
from gateway.core.analysis import AnalysisSpec, Evidence, Finding, Verdict, fresh_state, judge
from gateway.core.predictions.settings import RouteWatch
from gateway.core.stats.counts import EpochCounts
from gateway.core.types import Variant
from gateway.inspector.aggregator import Aggregator
from gateway.runtime.samples import Sample
from gateway.serving.model import Model

STABLE = "digits-logreg"
CONFIG = PredictionsConfig()


@functools.cache
def answered(name: str, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of a bundled model, its probabilities recalibrated by a temperature."""
    model = Model.load(bundled.path(name))
    pixels = np.array(bundled.heldout().pixels, np.float32)
    labels, probabilities = model.run(("label", "probabilities"), {"pixels": pixels})
    scaled = probabilities.astype(float) ** (1 / temperature)
    return labels, scaled / scaled.sum(axis=1, keepdims=True)


@functools.cache
def bodies(name: str, temperature: float = 1.0) -> list[bytes]:
    labels, probabilities = answered(name, temperature)
    return [
        msgspec.json.encode(
            {
                "outputs": [
                    {"name": "label", "datatype": "INT64", "shape": [1], "data": [int(label)]},
                    {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": row.tolist()},
                ]
            }
        )
        for label, row in zip(labels, probabilities, strict=True)
    ]


def findings(canary: list[bytes], requests: int, seed: int, weight: float) -> tuple[dict[str, Finding], dict[str, int]]:
    """The findings of all events after so many requests; and at how many canary requests each one failed first."""
    draw = random.Random(seed)
    aggregator = Aggregator("boot", draw.random)
    aggregator.watch({"r": RouteWatch(watch=CONFIG.watch())})
    spec = AnalysisSpec(events=CONFIG.events(), alpha_sample_ratio=0.0)
    state, failed, canaries = fresh_state(spec), dict[str, int](), 0
    stable = bodies(STABLE)
    found: dict[str, Finding] = {}
    tick = max(1, requests // 40)
    for number in range(requests):
        variant = Variant.CANARY if draw.random() < weight else Variant.STABLE
        canaries += variant
        body = draw.choice(canary if variant else stable)
        aggregator.take(Sample("r", 1, int(weight * 10_000), variant, body, "application/json", "", ""), number / 250)
        if number % tick == tick - 1:
            state, analysis = judge(spec, state, Evidence(number / 250, tuple(aggregator.report(0.0).report.evidence)))
            assert analysis.verdict is not Verdict.ERROR, analysis.reason
            found = {finding.metric: finding for finding in analysis.findings if finding.metric in PREDICTED}
            for name in analysis.causes:
                failed.setdefault(name, canaries)
    return found, failed


def test_a_model_that_is_wrong_is_convicted_at_once() -> None:
    for seed in range(5):
        found, failed = findings(bodies("digits-misscaled"), 400, seed, 0.1)
        assert failed["class_4"] <= 30, f"seed {seed}: {failed}"
        assert found["class_4"].verdict is Verdict.FAIL
        assert set(failed) <= {f"class_{digit}" for digit in range(10)}


@pytest.mark.parametrize(("name", "temperature"), [("digits-svm", 1.0), (STABLE, 1.0), (STABLE, 1.2), (STABLE, 0.8)])
def test_better_and_recalibrated_models_pass(name: str, temperature: float) -> None:
    for seed in range(2):
        found, failed = findings(bodies(name, temperature), 3200, seed, 0.5)
        assert failed == {}, f"seed {seed}"
        held = {finding.metric for finding in found.values() if finding.verdict is not Verdict.PASS}
        # 13.2 % are to be distinguished from the margin of 20 %, which takes more than these requests.
        assert held <= ({"low_confidence"} if temperature == 1.2 else set()), f"seed {seed}"


def test_a_class_that_half_of_the_answers_have_can_be_proven() -> None:
    """The first bets are made before stable's rate is known; they must not cost more than the later ones bring."""
    draw = random.Random(5)
    spec = AnalysisSpec(events=PredictionsConfig(margin=0.2).events(), alpha_sample_ratio=0.0)
    state, counts = fresh_state(spec), EpochCounts("r", 1, 2000)
    for number in range(3000):
        arm = counts.canary if draw.random() < 0.2 else counts.stable
        half = draw.random() < 0.5
        arm.requests += 1
        arm.label("class_0", half)
        arm.label("class_1", not half)
        if number % 50 == 49:
            state, analysis = judge(spec, state, Evidence(number / 250, (counts,)))
    found = {finding.metric: finding.verdict for finding in analysis.findings}
    assert found["class_0"] is found["class_1"] is Verdict.PASS


def test_the_figures_of_the_document() -> None:
    stable, better = answered(STABLE), answered("digits-svm")
    assert np.mean(stable[0] != better[0]) == pytest.approx(0.028)
    mixes = [np.bincount(labels, minlength=10) / len(labels) for labels, _ in (stable, better)]
    assert np.abs(mixes[0] - mixes[1]).max() == pytest.approx(0.004)
    low = np.quantile(stable[1].max(axis=1), 0.1)
    shares = [np.mean(answered(*which)[1].max(axis=1) < low) for which in ((STABLE,), ("digits-svm",), (STABLE, 1.2))]
    assert shares == pytest.approx([0.1, 0.088, 0.132], abs=0.002)
    assert [round(float(np.median(p.max(axis=1))), 3) for _, p in (stable, better)] == [0.997, 0.973]
