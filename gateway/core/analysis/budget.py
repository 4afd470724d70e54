"""The one place where the error probabilities of a rollout are shared out.

A rollout has three promises, each with one number:

1. alpha_rollback: P(a canary that is no worse is EVER rolled back by the evidence). It is shared by everything that can
   roll back (metrics and guardrails that decide) and by the two parts of a rollout: the climb, and the bake after
   promotion, which gets ``bake_share`` of it. Within a part FAIL needs the weighted average of E (weights v below,
   positive, sum 1) at 1 / alpha: an average of e-processes is one whatever their dependence, so the part's alpha is
   kept exactly, over all metrics and steps, however often one looks (Vovk and Wang, 2021).
2. alpha_promote: P(a canary that is worse by the margin in SOME metric ever passes). Every metric that decides must
   prove itself at the whole alpha_promote (intersection-union): many metrics cost nothing.
3. alpha_sample_ratio: P(a sound split is ever taken for a broken one). It rolls nothing back, so it is not a part of 1.

Which metrics to blame is e-BH on the same weighted values (Wang and Ramdas, 2022): the k largest v E are named when the
k-th of them is at 1 / (k alpha), for the largest such k. The expected share of wrong names among them is at most alpha.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import msgspec

from gateway.core.analysis.spec import LATENCY_METRICS, RATE_METRICS, AnalysisSpec, EventSpec, GuardrailSpec, Mode

BAKE_SHARE = 0.2


def for_bake(spec: AnalysisSpec, bake_s: float) -> AnalysisSpec:
    """The spec with a part of alpha_rollback kept for a bake of this length; all for the climb without one."""
    return msgspec.structs.replace(spec, bake_share=BAKE_SHARE if bake_s > 0.0 else 0.0)


def log_alpha(spec: AnalysisSpec, *, baking: bool) -> float:
    """log of what alpha_rollback leaves for the climb, or for the bake (all of it when no share was kept)."""
    share = spec.bake_share if baking else 1.0 - spec.bake_share
    return math.log(spec.alpha_rollback) + (math.log(share) if share else 0.0)


@functools.lru_cache(maxsize=64)
def log_shares(spec: AnalysisSpec) -> Mapping[str, float]:
    """log v by name, of everything that is looked at, in the order of the report.

    What does not decide gets the share that it would have if it did.
    """
    parts = _parts(spec)
    whole = math.fsum(part for part, decides in parts.values() if decides)
    return {
        name: math.log(part) - math.log(whole if decides else whole + part) for name, (part, decides) in parts.items()
    }


@functools.lru_cache(maxsize=64)
def bad_needed(spec: AnalysisSpec, *, baking: bool = False) -> Mapping[str, float]:
    """log E_bad at which each name convicts by itself, 1 / (alpha v)."""
    alpha = log_alpha(spec, baking=baking)
    return {name: -alpha - share for name, share in log_shares(spec).items()}


def blamed(weighted: Mapping[str, float], alpha: float) -> tuple[str, ...]:
    """The names that e-BH rejects, given log(v E) and log alpha; the largest alone when it rejects none."""
    ranked = sorted(weighted, key=lambda name: -weighted[name])
    count = max((k for k in range(1, len(ranked) + 1) if weighted[ranked[k - 1]] >= -alpha - math.log(k)), default=1)
    guilty = frozenset(ranked[:count])
    return tuple(name for name in weighted if name in guilty)


def _parts(spec: AnalysisSpec) -> dict[str, tuple[float, bool]]:
    """The configured share of everything that is looked at, and whether it decides."""
    parts: dict[str, tuple[float, bool]] = {}
    for name in (*RATE_METRICS, *LATENCY_METRICS):
        metric = getattr(spec, name)
        if metric.mode is not Mode.OFF:
            parts[name] = (getattr(spec.shares, name), metric.decides)
    others: list[EventSpec | GuardrailSpec] = [*spec.events, *spec.guardrails]
    for one in others:
        if one.mode is not Mode.OFF:
            parts[one.name] = (one.share, one.decides)
    return parts
