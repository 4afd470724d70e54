"""The one place where the error probabilities of a rollout are shared out.

A rollout has three promises, each with one number:

1. alpha_rollback: P(a canary that is no worse is EVER rolled back by the evidence). It is shared by everything that
   can roll back (metrics and guardrails that decide) and by the two parts of a rollout: the climb, and the bake after
   promotion, which gets ``bake_share`` of it. A plan with a warm-up of its own (``plan.warmup_s``) gives a tenth to
   that, in which only a canary that is as good as dead is convicted; one with a mirror step gives half to that
   (paired.py). Within a part FAIL needs the weighted average of E (weights v below, positive, sum 1) at 1 / alpha: an
   average of e-processes is one whatever their dependence, so the part's alpha is kept exactly, over all metrics and
   steps, however often one looks (Vovk and Wang, 2021).
2. alpha_promote: P(a canary that is worse by the margin in SOME metric ever passes). Every metric that decides must
   prove itself at the whole alpha_promote (intersection-union): many metrics cost nothing.
3. alpha_sample_ratio: P(a sound split is ever taken for a broken one). It rolls nothing back, so it is not a part of
   1.

Which metrics to blame is e-BH on the same weighted values (Wang and Ramdas, 2022): the k largest v E are named when
the k-th of them is at 1 / (k alpha), for the largest such k. The expected share of wrong names among them is at most
alpha.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import msgspec

from gateway.core.analysis.metrics import registry
from gateway.core.analysis.metrics.kind import Metric, Role
from gateway.core.analysis.metrics.registry import Kinds, metrics_of
from gateway.core.analysis.spec import LATENCY_METRICS, RATE_METRICS, AnalysisSpec, LatencySpec, Mode

BAKE_SHARE = 0.2
WARMUP_SHARE = 0.1
MIRROR_SHARE = 0.5
# While a canary warms up it may fail so many of its requests more than stable.
WARMUP_TOLERANCE = 0.25
_NO_PASS = 1e-12
_ROLLING_BACK = (Role.COMPARED, Role.LIMIT)


def for_bake(spec: AnalysisSpec, bake_s: float) -> AnalysisSpec:
    """The spec with a part of alpha_rollback kept for a bake of this length; all for the climb without one."""
    return msgspec.structs.replace(spec, bake_share=BAKE_SHARE if bake_s > 0.0 else 0.0)


def while_warming(spec: AnalysisSpec) -> AnalysisSpec:
    """The spec of a plan's warm-up: a canary that is as good as dead is convicted, and nothing else counts."""
    rates = {
        name: msgspec.structs.replace(rate, tolerance_ratio=1.0, tolerance_delta=WARMUP_TOLERANCE)
        for name, rate in zip(RATE_METRICS, spec.rates, strict=True)
    }
    # The latency is shown.
    off = {name: LatencySpec(mode=Mode.OFF) for name in LATENCY_METRICS if name != "latency"}
    if spec.latency.mode is not Mode.OFF:
        off["latency"] = msgspec.structs.replace(spec.latency, mode=Mode.ADVISE)
    alpha = WARMUP_SHARE * spec.alpha_rollback
    return msgspec.structs.replace(
        spec, **rates, **off, alpha_rollback=alpha, alpha_promote=_NO_PASS, bake_share=0.0, events=(), guardrails=()
    )


def after_warming(spec: AnalysisSpec) -> AnalysisSpec:
    """The spec of a rollout whose plan had a warm-up: what that has left of alpha_rollback."""
    return msgspec.structs.replace(spec, alpha_rollback=(1.0 - WARMUP_SHARE) * spec.alpha_rollback)


def beside_mirror(spec: AnalysisSpec) -> AnalysisSpec:
    """The spec of a climb whose plan has a mirror step, or of that step: each has half of alpha_rollback."""
    return msgspec.structs.replace(spec, alpha_rollback=MIRROR_SHARE * spec.alpha_rollback)


def log_alpha(spec: AnalysisSpec, *, baking: bool) -> float:
    """log of what alpha_rollback leaves for the climb, or for the bake (all of it when no share was kept)."""
    share = spec.bake_share if baking else 1.0 - spec.bake_share
    return math.log(spec.alpha_rollback) + (math.log(share) if share else 0.0)


def log_shares(spec: AnalysisSpec) -> Mapping[str, float]:
    """log v by name, of everything that can roll back, in the order of the report.

    What does not decide gets the share that it would have if it did.
    """
    return _log_shares(registry.KINDS, spec)


def bad_needed(spec: AnalysisSpec, *, baking: bool = False) -> Mapping[str, float]:
    """log E_bad at which each name convicts by itself, 1 / (alpha v)."""
    return _bad_needed(registry.KINDS, spec, log_alpha(spec, baking=baking))


def blamed(weighted: Mapping[str, float], alpha: float) -> tuple[str, ...]:
    """The names that e-BH rejects, given log(v E) and log alpha; the largest alone when it rejects none."""
    ranked = sorted(weighted, key=lambda name: -weighted[name])
    count = max((k for k in range(1, len(ranked) + 1) if weighted[ranked[k - 1]] >= -alpha - math.log(k)), default=1)
    guilty = frozenset(ranked[:count])
    return tuple(name for name in weighted if name in guilty)


def _sharing(spec: AnalysisSpec) -> tuple[Metric, ...]:
    """What shares alpha_rollback: all that may roll back. Checks of the experiment have an alpha of their own."""
    return tuple([one for _, metrics in metrics_of(spec) for one in metrics if one.role in _ROLLING_BACK])


@functools.lru_cache(maxsize=64)
def _log_shares(_kinds: Kinds, spec: AnalysisSpec) -> Mapping[str, float]:
    metrics = _sharing(spec)
    whole = math.fsum(one.share for one in metrics if one.mode.may_decide)
    return {
        one.name: math.log(one.share) - math.log(whole if one.mode.may_decide else whole + one.share) for one in metrics
    }


@functools.lru_cache(maxsize=64)
def _bad_needed(kinds: Kinds, spec: AnalysisSpec, alpha: float) -> Mapping[str, float]:
    return {name: -alpha - share for name, share in _log_shares(kinds, spec).items()}
