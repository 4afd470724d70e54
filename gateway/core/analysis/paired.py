"""Judges mirrored pairs: requests that both versions have met, so that neither traffic nor users differ between them.

Rules:

1. **Outcomes**: of a slice of `SLICE_S` with n pairs the difference counts, how many more came to a class on the canary
   alone than on stable alone: X is that difference in units of w, cut to -1 and 1, with w = max(1, 4 n tolerance).
   Under the null that the canary's rate is at most ``tolerance`` above stable's, the mean of X is at most
   n tolerance / w: without the excess the two versions could be exchanged, so that X is symmetric, and a pair of the
   excess moves X by 1 / w at most. This holds however failures within a slice depend on each other: a canary that
   restarts loses one coin, not a thousand. Factors 1 + l (X - n tolerance / w) are bets against the null.
2. **Proof** that the canary's rate is less than ``margin`` above stable's: a pair has x = 1 (the canary alone), -1 or
   0, whose mean would be at least ``margin``; factors 1 + l (margin - x). What stable alone failed in a slice counts up
   to one more than the canary did: an outage of stable proves nothing good.
3. **Latency**: slices of `LATENCY_SLICE_S` (and `LATENCY_PAIRS_MIN` pairs) toss a coin each: in more than half of its
   pairs the canary took longer than ``tolerance`` times stable's time. Under the null that is a coin of at most 1/2: a
   sign test of slices. Proof is the same coin at ``margin``.
4. **Disagreement** of outputs is a rate of its own, without a side: tested against ``tolerance``, proven below
   ``margin``. It decides as soon as there is a comparison; what nobody could compare is said, and proves nothing.
5. All are e-processes, valid whenever one looks: mixtures over a few guesses. FAIL when their average by `SHARES` is at
   1 / alpha_rollback, PASS when every one that decides is at 1 / alpha_promote (budget.py).
6. Counts are cumulative by epoch; what the first look finds is where counting begins. Like judge.py this never raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from gateway.core.analysis.budget import blamed
from gateway.core.analysis.judge import Look
from gateway.core.analysis.paired_spec import PairedSpec
from gateway.core.analysis.types import Analysis, Evidence, Finding, Verdict
from gateway.core.errors import EvidenceError
from gateway.core.stats.outcomes import ERRORS, NAMES, OVERLOAD
from gateway.core.stats.pairs import CANARY_ONLY, COMPARED, DISAGREED, PAIRS, RATIO, STABLE_ONLY, UNREAD, ratio_of

LATENCY: Final = "latency"
DISAGREEMENT: Final = "disagreement"
METRICS: Final = (*NAMES, LATENCY, DISAGREEMENT)
_MAIN: Final = {ERRORS: 0.3, OVERLOAD: 0.1, LATENCY: 0.2, DISAGREEMENT: 0.2}
SHARES: Final = {name: _MAIN.get(name, 0.2 / (len(METRICS) - len(_MAIN))) for name in METRICS}
SLICE_S: Final = 0.25
LATENCY_SLICE_S: Final = 1.0
LATENCY_PAIRS_MIN: Final = 5

# Guesses, as parts of the largest bet, of the rate in multiples of the tolerance, and of it in parts of the margin.
_BETS: Final = (0.03, 0.1, 0.3, 0.6, 0.95)
_TIMES: Final = (1.25, 1.5, 2.0, 4.0, 10.0)
_PARTS: Final = (0.0, 0.1, 0.25, 0.5, 0.75)
# Of rule 1: what the null allows is a fourth of a unit at most.
_UNITS: Final = 4.0
_RATE_MIN: Final = 1e-3


class PairedTest(msgspec.Struct, frozen=True):
    """Both e-processes of one metric, as log-wealths by guess; and what was seen of it.

    ``canary`` and ``stable`` are the pairs that only this version failed; of a latency the slices that the canary lost
    and won; of disagreement the pairs that disagreed and agreed.
    """

    bad: tuple[float, ...]
    ok: tuple[float, ...]
    canary: int = 0
    stable: int = 0
    units: int = 0


class PairedSlice(msgspec.Struct, frozen=True):
    """What has come in a slice that is not over."""

    since_s: float = -1.0
    counts: dict[str, int] = {}


class PairedState(msgspec.Struct, frozen=True):
    """What the judge of pairs remembers. ``seen`` are the counts by epoch; None before the first look."""

    spec: PairedSpec
    tests: dict[str, PairedTest]
    pairs: int = 0
    unread: int = 0
    seen: dict[int, dict[str, int]] | None = None
    at_s: float = 0.0
    outcomes: PairedSlice = PairedSlice()
    latency: PairedSlice = PairedSlice()


def fresh(spec: PairedSpec) -> PairedState:
    """No pairs yet; one unit of wealth in every test."""
    guesses = {LATENCY: (_BETS, _BETS), DISAGREEMENT: (_TIMES, _PARTS)}
    tests = {}
    for name in METRICS:
        bad, ok = guesses.get(name, (_BETS, _BETS))
        tests[name] = PairedTest(tuple(-math.log(len(bad)) for _ in bad), tuple(-math.log(len(ok)) for _ in ok))
    return PairedState(spec, tests)


def look(
    state: PairedState, evidence: Evidence, alpha_rollback: float, alpha_promote: float
) -> tuple[PairedState, Look]:
    """The state after this evidence, and what it says at ``evidence.at_s``. Never raises."""
    try:
        after = _take(state, evidence)
        return after, Look.of(analysis_of(after, alpha_rollback, alpha_promote))
    except EvidenceError as error:
        reason = f"evidence refused: {error}"
        return state, Look.of(Analysis(Verdict.ERROR, reason, (), (), 0.0, 0.0, 0.0, 0, 0))


# --- evidence in ---


def _take(state: PairedState, evidence: Evidence) -> PairedState:
    seen = {entry.epoch: dict(entry.pairs) for entry in evidence.epochs}
    if state.seen is None:
        return msgspec.structs.replace(state, seen=seen, at_s=evidence.at_s)
    new: dict[str, int] = {}
    for epoch, counts in seen.items():
        before = state.seen.get(epoch, {})
        for name, count in counts.items():
            added = count - before.get(name, 0)
            if added < 0:
                raise EvidenceError(f"the count of pairs {name!r} went backwards")
            if added:
                new[name] = new.get(name, 0) + added
    tests = dict(state.tests)
    if compared := new.get(COMPARED, 0):
        tests[DISAGREEMENT] = disagreement(tests[DISAGREEMENT], state.spec, compared, new.get(DISAGREED, 0))
    outcomes = _with(state.outcomes, new, state.at_s, lambda name: not name.startswith(RATIO))
    if outcomes.counts.get(PAIRS, 0) and evidence.at_s - outcomes.since_s >= SLICE_S:
        pairs = outcomes.counts[PAIRS]
        for kind in NAMES:
            canary, stable = (outcomes.counts.get(side + kind, 0) for side in (CANARY_ONLY, STABLE_ONLY))
            tests[kind] = outcome(tests[kind], state.spec, pairs, canary, stable)
        outcomes = PairedSlice()
    latency = _with(state.latency, new, state.at_s, lambda name: name.startswith(RATIO))
    if sum(latency.counts.values()) >= LATENCY_PAIRS_MIN and evidence.at_s - latency.since_s >= LATENCY_SLICE_S:
        ratios = [(ratio_of(name), count) for name, count in latency.counts.items()]
        tests[LATENCY] = slower(tests[LATENCY], state.spec, ratios)
        latency = PairedSlice()
    return PairedState(
        spec=state.spec,
        tests=tests,
        pairs=state.pairs + new.get(PAIRS, 0),
        unread=state.unread + new.get(UNREAD, 0),
        # An epoch that left may come back no more; those that are there are all that is needed.
        seen={epoch: counts for epoch, counts in (state.seen | seen).items() if epoch in seen},
        outcomes=outcomes,
        latency=latency,
        at_s=evidence.at_s,
    )


def _with(slice_: PairedSlice, new: Mapping[str, int], before_s: float, wanted: Callable[[str], bool]) -> PairedSlice:
    added = {name: count for name, count in new.items() if wanted(name)}
    if not added:
        return slice_
    counts = {name: slice_.counts.get(name, 0) + added.get(name, 0) for name in slice_.counts.keys() | added.keys()}
    return PairedSlice(before_s if slice_.since_s < 0.0 else slice_.since_s, counts)


def outcome(test: PairedTest, spec: PairedSpec, pairs: int, canary: int, stable: int) -> PairedTest:
    """One slice of outcomes (rules 1 and 2): so many pairs, and of them those that only one version failed."""
    excess, margin = pairs * spec.tolerance_delta, spec.margin_delta
    unit = max(1.0, _UNITS * excess)
    allowed = excess / unit
    x = max(-1.0, min(1.0, (canary - stable) / unit))
    bets = [part / (1.0 + allowed) for part in _BETS]
    credit = min(stable, canary + 1)
    proofs = [part / (1.0 - margin) for part in _BETS]
    rest = pairs - canary - credit
    ok = [
        canary * math.log1p(bet * (margin - 1.0))
        + credit * math.log1p(bet * (margin + 1.0))
        + rest * math.log1p(bet * margin)
        for bet in proofs
    ]
    return PairedTest(
        _grown(test.bad, [math.log1p(bet * (x - allowed)) for bet in bets]),
        _grown(test.ok, ok),
        test.canary + canary,
        test.stable + stable,
        test.units + pairs,
    )


def slower(test: PairedTest, spec: PairedSpec, ratios: Sequence[tuple[float, int]]) -> PairedTest:
    """One slice of latencies (rule 3), as ratios of the canary's to stable's with how many pairs had each."""
    pairs = sum(count for _, count in ratios)

    def lost(bound: float) -> bool:
        return 2 * sum(count for ratio, count in ratios if ratio > bound) > pairs

    bad, ok = lost(spec.latency_tolerance_ratio), lost(spec.latency_margin_ratio)
    return PairedTest(
        _grown(test.bad, [math.log1p(bet if bad else -bet) for bet in _BETS]),
        _grown(test.ok, [math.log1p(-bet if ok else bet) for bet in _BETS]),
        test.canary + bad,
        test.stable + (not bad),
        test.units + 1,
    )


def disagreement(test: PairedTest, spec: PairedSpec, compared: int, disagreed: int) -> PairedTest:
    """So many more outputs were compared (rule 4): likelihood ratios of guessed rates to the bounds."""
    low, high = max(_RATE_MIN, spec.disagreement_tolerance), spec.disagreement_margin
    bad = [min(0.99, times * low) if times * low < 0.99 else (1.0 + low) / 2.0 for times in _TIMES]
    return PairedTest(
        _grown(test.bad, [_log_ratio(guess, low, compared, disagreed) for guess in bad]),
        _grown(test.ok, [_log_ratio(part * high, high, compared, disagreed) for part in _PARTS]),
        test.canary + disagreed,
        test.stable + compared - disagreed,
        test.units + compared,
    )


def _log_ratio(guess: float, null: float, trials: int, events: int) -> float:
    rest = (trials - events) * math.log((1.0 - guess) / (1.0 - null))
    if not events:
        return rest
    return rest + events * (math.log(guess / null) if guess else -_NEVER)


# The logarithm of no wealth at all, as a finite number.
_NEVER: Final = 1e6


def _grown(logs: tuple[float, ...], gains: Sequence[float]) -> tuple[float, ...]:
    return tuple(max(-_NEVER, one + gain) for one, gain in zip(logs, gains, strict=True))


def log_e(logs: Sequence[float]) -> float:
    """The logarithm of a mixture's wealth."""
    most = max(logs)
    return most + math.log(sum(math.exp(one - most) for one in logs))


# --- the verdict out ---


def analysis_of(state: PairedState, alpha_rollback: float, alpha_promote: float) -> Analysis:
    """What the pairs say so far."""
    bad_needed, ok_needed = -math.log(alpha_rollback), -math.log(alpha_promote)
    findings, weighted = [], {}
    for name in METRICS:
        test = state.tests[name]
        if (name == LATENCY and not state.spec.latency) or (name == DISAGREEMENT and not state.spec.outputs):
            continue
        bad, ok = log_e(test.bad), log_e(test.ok)
        weighted[name] = bad + math.log(SHARES[name])
        convicts = weighted[name] >= bad_needed
        verdict = Verdict.FAIL if convicts else Verdict.PASS if test.units and ok >= ok_needed else Verdict.UNDECIDED
        if not test.units:
            verdict = Verdict.NODATA
        decides = name != DISAGREEMENT or test.units > 0
        reason = _sentence(state, name, test, verdict, ok, ok_needed)
        stable = (test.stable, test.units) if name not in (LATENCY, DISAGREEMENT) else (0, 0)
        needed = {"log_e_bad_needed": bad_needed - math.log(SHARES[name]), "log_e_ok_needed": ok_needed}
        findings.append(Finding(name, verdict, reason, decides, bad, ok, *stable, test.canary, test.units, needed))
    total = log_e(list(weighted.values()))
    verdict, reason, causes = _verdict(state, findings, weighted, total, bad_needed)
    return Analysis(verdict, reason, causes, tuple(findings), total, bad_needed, ok_needed, state.pairs, state.pairs)


def _verdict(
    state: PairedState, findings: list[Finding], weighted: Mapping[str, float], total: float, bad_needed: float
) -> tuple[Verdict, str, tuple[str, ...]]:
    by_name = {finding.metric: finding for finding in findings}
    if total >= bad_needed:
        causes = blamed(weighted, -bad_needed)
        return Verdict.FAIL, "; ".join(by_name[name].reason for name in causes), causes
    if not state.pairs:
        return Verdict.NODATA, "no request has met both versions yet", ()
    waiting = [finding for finding in findings if finding.decides and finding.verdict is not Verdict.PASS]
    if waiting:
        # The furthest from its proof is what a person wants to read of.
        last = min(waiting, key=lambda finding: finding.log_e_ok)
        return Verdict.UNDECIDED, last.reason, ()
    unread = f"; {_incomparable(state)}" if _incomparable(state) else ""
    return Verdict.PASS, f"{state.pairs} requests met both versions, and the canary did as well{unread}", ()


def _incomparable(state: PairedState) -> str:
    if state.spec.outputs and not state.tests[DISAGREEMENT].units and state.unread:
        return f"no outputs could be compared ({state.unread} pairs of answers were no predictions that are understood)"
    return ""


def _sentence(state: PairedState, name: str, test: PairedTest, verdict: Verdict, ok: float, ok_needed: float) -> str:
    """One metric in words."""
    spec = state.spec
    if name == LATENCY:
        if not test.units:
            return f"latency: no slice of {LATENCY_PAIRS_MIN} pairs yet"
        told = (
            f"latency: in {test.canary} of {test.units} slices the canary took more than"
            f" {spec.latency_tolerance_ratio:g} times stable's time on most of the same requests"
        )
    elif name == DISAGREEMENT:
        if not test.units:
            return f"disagreement: {_incomparable(state) or 'no outputs were compared yet'}"
        told = f"disagreement: {test.canary} of {test.units} outputs differ from stable's on the same request"
    else:
        if not test.units:
            return f"{name}: no pairs yet"
        told = (
            f"{name}: of {test.units} requests that both versions met, {test.canary} came to this on the canary alone"
        )
        told += f" and {test.stable} on stable alone"
    if verdict in (Verdict.FAIL, Verdict.PASS):
        return told
    share = max(0.0, min(1.0, ok / ok_needed))
    return f"{told}; {share:.0%} of the proof that this is good enough"
