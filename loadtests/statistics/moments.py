"""A candidate for the engine: bad moments learnt from stable's own past, instead of a burst length fixed by hand.

The engine does not use this yet. It is simulated here beside the engine (weather.py), because the unit of evidence that
is fixed by hand (`burst_s`) is wrong in two ways: bad moments of seconds convict a healthy canary, and dense traffic is
judged ten times later than it could be.

Theory. Each arm has moments in which it fails more than usual, by itself. The null hypothesis knows how often they
begin, at which failure rates, and after which time they end, all learnt from stable. The evidence is the likelihood of
a mixture of bad canaries over that of the null hypothesis, BOTH of which have such moments. What a moment explains
therefore speaks for neither, and a dead canary is told from a moment by lasting longer than moments last. Where the
learnt numbers are right, and given the rules below, the mean of E under the null hypothesis is at most 1, as before.

Rules:

1. A state is (is an arm in a moment, and at which of the guessed rates): normal, the canary's moments at each of the
   guesses, stable's at some of them. A hypothesis has a weight for each state (a forward filter): the null, whose
   normal canary is as good as stable, and for each guess one whose normal canary has that rate. All are divided by the
   null's sum after each batch, so E is the sum over guesses, plus what is still held back.
2. What a batch says about a state is the two-arm e-variable (eprocess.py) of that state's rates, so that faults which
   both arms share cancel, as before.
3. That e-variable compares the arms GIVEN how many requests failed. But whether a moment began shows in that number:
   many failures at once come from a moment of either arm, or from something common. So the prior of a moment's
   beginning is weighted by how well it explains the total of the batch: u / (1 + 2 sum of u). The total says nothing
   about which arm failed, so weights may depend on it. At most a half of all goes to beginnings, a half stays with
   "common": a shared outage changes all hypotheses alike. A hypothesis that explains the total by itself needs no
   moment: its own likelihood of the total stands in place of the 1.
4. What a shared outage makes of the totals is learnt within a few batches (`now`): else each of its batches would be
   taken for another beginning.
5. A moment may change its rate from one batch to the next with chance `SWITCH`: its first and last batch are met
   in part.
6. A moment ends with the hazard that stable's moments of this AGE have had, in dyadic steps of the age, mild and severe
   ones apart. Nothing seen of an age: one moment of `PRIOR_S`.
7. The stake that is held back is spent by the clock, and faster (`PHI`) at batches whose total looks like a moment of
   the canary: a version that dies after an hour dies in such a batch.

Stable's past (`StablePast`) is the same filter for one arm: expected beginnings, exposure, time and endings by age. Its
normal failure rate leaves out what moments explain; after some ten seconds a moment has become normal.

Arrays have the rollouts in their last axis.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gateway.core.analysis.metrics import rates
from loadtests.statistics.detection import Floats

# Guessed failure rates: odds ratios to stable's rate, and a dead canary.
RATIOS = np.array((1.55, 2.4, 4.3, 9.0, 20.0, 55.0, 300.0))
DEAD = 0.97
PRIORS = np.array((0.155, 0.13, 0.12, 0.135, 0.155, 0.16, 0.07, 0.10))
PRIORS /= PRIORS.sum()
GUESSES = len(PRIORS)
HELD_BACK = 0.1
PHI = 0.4
# How moments are shared out over the guesses where little is known of them, and which of them stable's may have.
SHARES = np.array((0.03, 0.04, 0.06, 0.10, 0.14, 0.18, 0.20, 0.25))
STABLES = [4, 6, 7]
# Before anything is known: half a moment in ten seconds, and one that lasted PRIOR_S.
PRIOR_STARTS, PRIOR_EXPOSURE_S, PRIOR_S = 0.5, 10.0, 0.15
# A quarter of stable's moments may have come at any rate.
SPREAD = 0.25
SWITCH = 0.2
NOW = 0.5
# Hazards are lowered by this share where one ending was seen, less where there were more.
UNSURE = 0.5
AGES = 9
FIRST_AGE_S = 0.1
# Mild moments (guesses up to an odds ratio of 4.3) and severe ones.
KIND = np.array((0, 0, 0, 1, 1, 1, 1, 1))
NORMAL_AFTER_S = 10.0
BEGIN_MAX = 0.1
_EXPONENT_MAX = 50.0
_TINY = 1e-300


def guessed(stable: Floats) -> Floats:
    """[guess, rollout]: the rates of a canary, or of a moment, beside this normal rate."""
    odds = (1.0 - stable) / stable
    ratios = 1.0 / (1.0 + odds * np.exp(-np.log(RATIOS)[:, None]))
    dead = np.maximum(DEAD, 1.0 / (1.0 + odds / 1000.0))
    return np.asarray(np.clip(np.concatenate([ratios, dead[None]]), 1e-7, 1.0 - 1e-7))


def gains(stable: Floats, canary: Floats, batch: Floats) -> Floats:
    """log e of a batch against "not worse", [guess, rollout]; 0 where a guess is not worse."""
    events_s, trials_s, events_c, trials_c = batch
    weight = trials_c / (trials_s + trials_c)
    pooled = (1.0 - weight) * stable + weight * canary
    gain = events_s * np.log(stable) + (trials_s - events_s) * np.log(1.0 - stable)
    gain = gain + events_c * np.log(canary) + (trials_c - events_c) * np.log(1.0 - canary)
    gain -= (events_s + events_c) * np.log(pooled)
    gain -= (trials_s + trials_c - events_s - events_c) * np.log(1.0 - pooled)
    return np.asarray(np.where(canary <= stable, 0.0, gain))


def _age_step(age_s: Floats) -> npt.NDArray[np.intp]:
    steps = np.floor(np.log2(np.maximum(age_s, 0.5 * FIRST_AGE_S) / FIRST_AGE_S))
    return np.asarray(np.clip(steps, 0, AGES - 1), dtype=np.intp)


def _kept(moments: Floats, stays: Floats, shares: Floats) -> Floats:
    """Moments (guesses in the last axis but one) that go on, some at another rate (rule 5)."""
    kept = moments * stays
    return np.asarray((1.0 - SWITCH) * kept + SWITCH * shares[:, None] * kept.sum(axis=-2, keepdims=True))


class StablePast:
    """What is known of stable: its normal failure rate, and how its bad moments begin and end."""

    def __init__(self, runs: int) -> None:
        self.events, self.trials = np.zeros(runs), np.zeros(runs)
        self.starts, self.exposure_s = np.zeros((GUESSES, runs)), np.zeros((GUESSES, runs))
        # By kind and age.
        self.time_s, self.endings = np.zeros((2, AGES, runs)), np.zeros((2, AGES, runs))
        self._age_s, self._gap_s = np.full(runs, FIRST_AGE_S), np.zeros(runs)
        begun = np.minimum(self.starts_per_s() * self.length_s(), BEGIN_MAX)
        self._state = np.concatenate([1.0 - begun.sum(axis=0)[None], begun])

    @property
    def rate(self) -> Floats:
        """The normal failure rate."""
        prior = rates.FAILURES_PRIOR
        return np.asarray(np.clip((self.events + prior.events) / (self.trials + prior.trials), 1e-7, 1.0 - 1e-7))

    def starts_per_s(self) -> Floats:
        """How often moments begin, [guess, rollout]."""
        spread = SHARES[:, None] * (PRIOR_STARTS + SPREAD * self.starts.sum(axis=0))
        return np.asarray((spread + (1.0 - SPREAD) * self.starts) / (PRIOR_EXPOSURE_S + self.exposure_s))

    def length_s(self) -> Floats:
        """How long moments last on average, [guess, rollout]."""
        mean = (self.time_s.sum(axis=1) + PRIOR_S) / (self.endings.sum(axis=1) + 1.0)
        return np.asarray(mean[KIND])

    def endings_per_s(self, age_s: Floats, which: npt.NDArray[np.intp] | None = None) -> Floats:
        """The hazard of moments of this age, [guess, rollout]."""
        endings, time_s = (a if which is None else a[:, :, which] for a in (self.endings, self.time_s))
        hazard = (endings + 1.0) / (time_s + PRIOR_S) / (1.0 + UNSURE / np.sqrt(endings + 1.0))
        return np.asarray(hazard[:, _age_step(age_s), np.arange(len(age_s))][KIND])

    def take(self, trials: Floats, events: Floats, seconds: float) -> None:
        """One look's answers of stable."""
        normal, begin, length_s = self.rate, self.starts_per_s(), self.length_s()
        self._gap_s = self._gap_s + seconds
        gap_s, active, rate = self._gap_s, trials > 0, guessed(normal)
        log_gain = events * np.log(rate / normal) + (trials - events) * np.log((1.0 - rate) / (1.0 - normal))
        top = np.maximum(log_gain.max(axis=0), 0.0)
        moment, none = np.exp(log_gain - top), np.exp(-top)
        exposure_s = np.minimum(gap_s, trials * length_s)
        begins = np.minimum(begin * exposure_s, BEGIN_MAX)
        hazard = self.endings_per_s(self._age_s)
        stays = np.exp(-gap_s * hazard)
        before, moments = self._state[0], self._state[1:]
        begun, going = before * begins * moment, _kept(moments, stays, SHARES) * moment
        ended = moments * (1.0 - stays) * none
        after = np.concatenate([(before * (1.0 - begins.sum(axis=0)) * none + ended.sum(axis=0))[None], begun + going])
        whole = after.sum(axis=0)
        self._state = np.where(active, after / whole, self._state)
        # An ending within a long gap came, on average, as soon as its hazard says.
        until_s = 1.0 / hazard - gap_s * stays / np.maximum(1.0 - stays, 1e-12)
        self.starts += np.where(active, begun / whole, 0.0)
        self.exposure_s += np.where(active, exposure_s, 0.0)
        step, every = _age_step(self._age_s), np.arange(len(trials))
        for kind in (0, 1):
            mine = kind == KIND
            lived_s = (going[mine] * gap_s + ended[mine] * until_s[mine]).sum(axis=0) / whole
            self.time_s[kind, step, every] += np.where(active, lived_s, 0.0)
            self.endings[kind, step, every] += np.where(active, ended[mine].sum(axis=0) / whole, 0.0)
        self._age_s = np.where(active, _aged(going, begun, self._age_s, gap_s), self._age_s)
        self._learn(trials, events)
        self._gap_s = np.where(active, 0.0, gap_s)

    def _learn(self, trials: Floats, events: Floats) -> None:
        normal = self._state[0]
        share = normal + (1.0 - normal) * np.minimum(1.0, (self._age_s / NORMAL_AFTER_S) ** 2)
        events, trials = self.events + share * events, self.trials + share * trials
        scale = np.where(trials > rates.PAST_MAX, 0.5 * rates.PAST_MAX / np.maximum(trials, 1.0), 1.0)
        self.events, self.trials = events * scale, trials * scale


def _aged(going: Floats, begun: Floats, age_s: Floats, gap_s: Floats) -> Floats:
    """The mean age of a moment after a batch."""
    old, new = going.sum(axis=0), begun.sum(axis=0)
    return np.asarray((old * (age_s + gap_s) + new * 0.5 * FIRST_AGE_S) / np.maximum(old + new, _TINY))


class Moments:
    """The filter of rule 1 for many rollouts side by side: [hypothesis, state, rollout]."""

    def __init__(self, runs: int, needed: float, past: StablePast) -> None:
        self.needed, self.past = needed, past
        begun = np.minimum(past.starts_per_s() * past.length_s(), BEGIN_MAX)
        null = np.concatenate([(1.0 - begun.sum(axis=0) - begun[STABLES].sum(axis=0))[None], begun, begun[STABLES]])
        self.weights = np.concatenate([null[None], (1.0 - HELD_BACK) * PRIORS[:, None, None] * null[None]])
        self.held_back, self.e = np.full(runs, HELD_BACK), np.ones(runs)
        self.open, self.age_s, self.now = np.zeros((4, runs)), np.full((2, runs), FIRST_AGE_S), np.zeros(runs)
        self.at_s, self.closed_s = 0.0, np.zeros(runs)

    @property
    def log_e(self) -> Floats:
        """log E of every rollout."""
        return np.asarray(np.log(self.e))

    def take(self, counts: Floats, seconds: float) -> None:
        """One look's [runs, (stable events, stable trials, canary events, canary trials)], before `StablePast.take`."""
        self.open += counts.T
        self.at_s += seconds
        trials_s, trials_c = self.open[1], self.open[3]
        scarce = np.minimum(trials_s, trials_c)
        closes = scarce >= rates.SCARCE_MAX
        trials = np.maximum(trials_s + trials_c, 1.0)
        most = sum(each * np.log(trials / np.maximum(each, 1.0)) for each in (trials_s, trials_c))
        unsure = np.flatnonzero((scarce > 0) & ~closes & (self.log_e + most > self.needed - 1e-6))
        if unsure.size:
            worst = self.open[:, unsure].copy()
            worst[0], worst[2] = 0.0, worst[3]
            closes[unsure] = np.log(self._grown(unsure, worst)[-1]) >= self.needed
        done = np.flatnonzero(closes)
        if not done.size:
            return
        batch = self.open[:, done]
        weights, held_back, age_s, e = self._grown(done, batch)
        self.weights[:, :, done] = np.minimum(weights, 1e200)
        self.held_back[done], self.age_s[:, done], self.e[done] = held_back, age_s, np.minimum(e, 1e250)
        rate = (batch[0] + batch[2]) / (batch[1] + batch[3])
        self.now[done] += weights[0, 0] * NOW * (rate - self.now[done])
        self.open[:, done], self.closed_s[done] = 0.0, self.at_s

    def _grown(self, which: npt.NDArray[np.intp], batch: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Weights, what is held back, ages and E of some rollouts after a batch."""
        past, gap_s, weights = self.past, self.at_s - self.closed_s[which], self.weights[:, :, which].copy()
        normal, begin, length_s = past.rate[which], past.starts_per_s()[:, which], past.length_s()[:, which]
        rate, (_, trials_s, _, trials_c) = guessed(normal), batch
        log_c, log_s = gains(normal, rate, batch), gains(normal, rate[STABLES], batch[[2, 3, 0, 1]])
        top = np.maximum(np.maximum(log_c.max(axis=0), log_s.max(axis=0)), 0.0)
        e_c, e_s, e_none = np.exp(log_c - top), np.exp(log_s - top), np.exp(-top)
        begins_c = np.minimum(begin * np.minimum(gap_s, trials_c * length_s), BEGIN_MAX)
        begins_s = np.minimum(begin * np.minimum(gap_s, trials_s * length_s), BEGIN_MAX)[STABLES]
        fits_c, fits_s = self._fits(which, batch, normal, rate)
        u_c, u_s = begins_c * fits_c, begins_s * fits_s
        both = 2.0 * (u_c.sum(axis=0) + u_s.sum(axis=0))
        # The stake that starts now (rule 7).
        spent = 1.0 - np.log2(self.at_s - gap_s + 2.0) / math.log2(self.at_s + 2.0)
        part = self.held_back[which] * np.minimum(spent + PHI * u_c.sum(axis=0) / (1.0 + both), 0.5)
        likely = PRIORS[:, None] * np.maximum(fits_c, 1.0)
        weights[1:] += (part * likely / likely.sum(axis=0))[:, None] * weights[0][None]
        held_back = self.held_back[which] - part
        # Each hypothesis explains the total as well as it can (rule 3).
        explained = np.concatenate([np.ones((1, len(which))), np.maximum(fits_c, 1.0)])[:, None]
        told_c, told_s = u_c[None] / (explained + both), u_s[None] / (explained + both)
        age_c, age_s = self.age_s[:, which]
        stays_c = np.exp(-gap_s * past.endings_per_s(age_c, which))
        stays_s = np.exp(-gap_s * past.endings_per_s(age_s, which))[STABLES]
        none, mine, stables = weights[:, 0], weights[:, 1 : 1 + GUESSES], weights[:, 1 + GUESSES :]
        ended_c, ended_s = (mine * (1.0 - stays_c)).sum(axis=1), (stables * (1.0 - stays_s)).sum(axis=1)
        # A moment that has just ended is no likelier to be followed by another one of the same arm for this total.
        begun_c = (none + ended_s)[:, None] * told_c + ended_c[:, None] * begins_c
        begun_s = (none + ended_c)[:, None] * told_s + ended_s[:, None] * begins_s
        going_c = _kept(mine, stays_c, SHARES)
        going_s = _kept(stables, stays_s, np.full(len(STABLES), 1.0 / len(STABLES)))
        quiet = none + ended_c + ended_s - begun_c.sum(axis=1) - begun_s.sum(axis=1)
        quiet = quiet * np.concatenate([e_none[None], e_c])
        ages = (
            _aged(going_c[0] * e_c, begun_c[0] * e_c, age_c, gap_s),
            _aged(going_s[0] * e_s, begun_s[0] * e_s, age_s, gap_s),
        )
        after = np.concatenate([quiet[:, None], (begun_c + going_c) * e_c, (begun_s + going_s) * e_s], axis=1)
        after /= after[0].sum(axis=0)
        return after, held_back, np.stack(ages), after[1:].sum(axis=(0, 1)) + held_back

    def _fits(self, which: npt.NDArray[np.intp], batch: Floats, normal: Floats, rate: Floats) -> tuple[Floats, Floats]:
        """How much better a moment of the canary, or of stable, explains the total than no moment does (rule 3)."""
        events, trials_s, trials_c = batch[0] + batch[2], batch[1], batch[3]
        usual = np.maximum(normal, self.now[which])
        expected = (trials_s + trials_c) * usual
        found = []
        for mine, other, rates_ in ((trials_c, trials_s, rate), (trials_s, trials_c, rate[STABLES])):
            more = np.maximum(mine * rates_ + other * usual, expected)
            exponent = events * np.log(more / expected) - (more - expected)
            found.append(np.exp(np.clip(exponent, -_EXPONENT_MAX, _EXPONENT_MAX)))
        return found[0], found[1]
