"""The one budget: shares add up to alpha, whatever decides, and blame is e-BH."""

from __future__ import annotations

import math

import pytest

from gateway.core.analysis import AnalysisSpec, EventSpec, GuardrailSpec, LatencySpec, Mode, RateSpec
from gateway.core.analysis.budget import bad_needed, blamed, log_shares
from gateway.core.analysis.spec import RATE_METRICS

FULL = AnalysisSpec(
    duration=LatencySpec(),
    gap=LatencySpec(mode=Mode.ADVISE),
    overload=RateSpec(mode=Mode.OFF),
    events=(EventSpec("nan", share=0.5), EventSpec("seen", mode=Mode.ADVISE), EventSpec("gone", mode=Mode.OFF)),
    guardrails=(GuardrailSpec("errors", 0.1),),
    bake_share=0.2,
)


@pytest.mark.parametrize("spec", [AnalysisSpec(), FULL])
@pytest.mark.parametrize("baking", [False, True])
def test_the_parts_of_alpha_add_up(spec: AnalysisSpec, baking: bool) -> None:
    paid = {name: math.exp(-needed) for name, needed in bad_needed(spec, baking=baking).items()}
    deciding = [name for name in paid if name not in ("gap", "seen")]
    part = (spec.bake_share if baking else 1 - spec.bake_share) or 1.0
    assert math.fsum(paid[name] for name in deciding) == pytest.approx(spec.alpha_rollback * part)


def test_what_is_off_has_no_share_and_the_order_is_the_reports() -> None:
    assert list(log_shares(FULL)) == [
        *(name for name in RATE_METRICS if name != "overload"),
        "latency",
        "duration",
        "gap",
        "nan",
        "seen",
        "guardrail:errors",
    ]


def test_blame_is_e_bh() -> None:
    alpha = math.log(0.01)
    assert blamed({"a": math.log(150), "b": math.log(3)}, alpha) == ("a",)
    # The second is at 1 / (2 alpha) with the first: both.
    assert blamed({"a": math.log(150), "b": math.log(60)}, alpha) == ("a", "b")
    assert blamed({"a": math.log(40), "b": math.log(40), "c": math.log(40)}, alpha) == ("a", "b", "c")
    # Enough together, and no k of them by itself: the largest.
    assert blamed({"a": math.log(90), "b": math.log(45), "c": math.log(30)}, alpha) == ("a",)
