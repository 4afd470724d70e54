"""What independent packages say about quantities that this engine computes too; tests/statistics compares.

    make oracles

or `python -m loadtests.statistics.oracles [--out oracles.jsonl]` where confseq, savvi and spotify-confidence are
installed (in an environment of their own: they bring a hundred packages). No chance but the seed is in it.

One JSON line per value, with the package's version and everything that the value depends on. Nothing of the gateway is
imported: numbers go in, numbers come out. What each package and this engine both compute, exactly:

savvi (Lindon and Malek, 2022): the odds of counts under a Dirichlet mixture. With two cells that is the mixture of
`intervals.log_mixture` and `rate_interval` (its Multinomial test), the check of the split (the same test, of routed
requests), and the conditional process of `hypergeometric.py` for rare events: given that one of many requests failed,
it was the canary's with probability w psi / (1 - w + w psi) (its InhomogeneousPoissonProcess, a "canary software
release test").

confseq (Howard, Ramdas, McAuliffe, Sekhon, 2021; Waudby-Smith and Ramdas, 2023): the beta-binomial mixture, two-sided
(`intervals.log_mixture`, ranks of `intervals.quantile_interval`) and one-sided (`guardrails.request_gains`); the
capital of betting on bounded means (`slices.py` with its late starts, `guardrails.slice_gains`).

spotify-confidence (Duflo, Glennerster, Kremer, 2007): the requests of a test of fixed size. Between rates that are
nearly equal they are (z_(alpha/2) + z_power)^2 / 2 nats of `limit.information`.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtests.statistics.lines import write

SEED = 20
HELD_BACK = 0.05
LAMBDAS = (0.1, 0.3, 0.6, 0.9, 0.99)
PRIORS = (0.1, 0.15, 0.2, 0.2, 0.35)
OK_SHARES = (0.2, 0.5, 0.95)
OK_PRIORS = (0.25, 0.25, 0.5)
# The prior of a quantile's interval weighs as much as a hundred requests: also savvi's default.
CONCENTRATION = 100.0


@dataclass(frozen=True)
class Oracle:
    """One value of a package: ``inputs`` is all that it depends on, ``value`` what came out."""

    package: str
    quantity: str
    value: float
    inputs: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    table: str = "oracles"


def _counts(rng: random.Random, rate: float, sizes: Sequence[int]) -> list[list[int]]:
    """Batches of [trials without, trials with the event]."""
    batches = []
    for size in sizes:
        events = sum(rng.random() < rate for _ in range(size))
        batches.append([size - events, events])
    return batches


def savvi() -> Iterator[Oracle]:
    """log odds of the Dirichlet mixture against the null, after batches of counts."""
    package: Any = import_module("savvi.multinomial")
    rng = random.Random(SEED)

    def odds(test: Any, batches: list[list[int]]) -> float:
        for batch in batches:
            test.update(np.array(batch))
        return math.log(float(test.odds))

    for rate, truth, weight in ((0.01, 0.01, 1.0), (0.01, 0.03, 10.0), (0.5, 0.5, 1.0), (0.99, 0.98, CONCENTRATION)):
        batches = _counts(rng, truth, (40, 160, 900))
        test = package.Multinomial(0.05, np.array([1.0 - rate, rate]), weight)
        yield Oracle("savvi", "mixture", odds(test, batches), {"rate": rate, "prior": weight, "batches": batches})
    # Its interval is found by a solver of convex programs: asked for more digits than it gives by itself.
    exact = {"solver": "CLARABEL", **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-13)}
    for events, trials, alpha in ((30, 1000, 0.05), (7, 9, 0.01), (400, 90_000, 0.001)):
        test = package.Multinomial(alpha, np.array([0.5, 0.5]), 1.0)
        test.update(np.array([trials - events, events]))
        for end, value in zip(("low", "high"), test.calculate_conf_int(**exact)[1].tolist(), strict=True):
            inputs = {"events": events, "trials": trials, "alpha": alpha, "end": end}
            yield Oracle("savvi", "interval", value, inputs)
    for weight, truth in ((0.05, 0.05), (0.1, 0.14), (0.5, 0.45)):
        batches = _counts(rng, truth, (100, 400, 1500))
        test = package.Multinomial(0.05, np.array([1.0 - weight, weight]), CONCENTRATION)
        inputs = {"weight": weight, "prior": CONCENTRATION, "batches": batches}
        yield Oracle("savvi", "split", odds(test, batches), inputs)
    for weight, truth in ((0.05, 0.3), (0.2, 0.2), (0.5, 0.8)):
        batches = _counts(rng, truth, (3, 5, 12, 30))
        contrast = np.array([[-1.0, 1.0]])
        test = package.InhomogeneousPoissonProcess(0.05, np.array([1.0 - weight, weight]), contrast, CONCENTRATION)
        inputs = {"weight": weight, "prior": CONCENTRATION, "batches": batches}
        yield Oracle("savvi", "failures by arm", odds(test, batches), inputs)


def confseq_mixtures() -> Iterator[Oracle]:
    """log of the beta-binomial mixture supermartingale, both kinds, and the two-sided one's boundary.

    At the null rate p it is a Beta(r / (1 - p), r / p) mixture, with r set by ``v_opt`` (`_intrinsic_time`).
    """
    package: Any = import_module("confseq.boundaries")
    rng = random.Random(SEED + 1)
    for rate, truth, weight in ((0.02, 0.02, 20.0), (0.05, 0.09, 50.0), (0.5, 0.55, 4.0), (0.95, 0.9, CONCENTRATION)):
        for trials in (60, 2500):
            events = _counts(rng, truth, (trials,))[0][1]
            spread = rate * (1.0 - rate)
            s, v = events - rate * trials, spread * trials
            inputs = {"rate": rate, "prior": weight, "trials": trials, "events": events}
            for quantity, one_sided in (("mixture", False), ("mixture of worse", True)):
                v_opt = _intrinsic_time(weight * spread, spread, 0.05, one_sided)
                value = package.beta_binomial_log_mixture(s, v, v_opt, rate, 1.0 - rate, 0.05, one_sided)
                yield Oracle("confseq", quantity, float(value), inputs)
    for quantile, trials, alpha in ((0.5, 250, 0.05), (0.95, 250, 0.01), (0.99, 400, 0.05)):
        spread = quantile * (1.0 - quantile)
        v_opt = _intrinsic_time(CONCENTRATION * spread, spread, 0.05, False)
        for quantity, below in (("rank above", quantile), ("rank below", 1.0 - quantile)):
            bound = package.beta_binomial_mixture_bound(spread * trials, alpha, v_opt, below, 1.0 - below, 0.05, False)
            inputs = {"quantile": quantile, "trials": trials, "alpha": alpha}
            yield Oracle("confseq", quantity, float(bound), inputs)


def _intrinsic_time(r: float, spread: float, alpha: float, one_sided: bool) -> float:
    """The ``v_opt`` for which confseq's mixture has r: r = v_opt / (2 l + log(1 + 2 l)) - p (1 - p), l = log(1 / a)."""
    level = -math.log(2.0 * alpha if one_sided else alpha)
    return (r + spread) * (2.0 * level + math.log1p(2.0 * level))


def confseq_bets() -> Iterator[Oracle]:
    """log E of mixtures of betting martingales: of slices with late starts, of margins, of a guarded latency."""
    rng = random.Random(SEED + 2)
    for name, slow in (("equal", 0.2), ("slower", 0.45)):
        # [stable slow, stable requests, canary slow, canary requests] of each slice
        slices = []
        for _ in range(25):
            stable, canary = rng.randint(20, 60), rng.randint(1, 12)
            fast = sum(rng.random() < 0.2 for _ in range(stable))
            slices.append([fast, stable, sum(rng.random() < slow for _ in range(canary)), canary])
        excess = np.array([c / n_c - s / n_s for s, n_s, c, n_c in slices])
        # A difference D in [-1, 1] is the value (1 + D) / 2 in [0, 1]: a stake of 2 lambda on it is one of lambda on D.
        parts = [_Capital((1.0 + excess) / 2.0, 0.5, 2.0 * stake) for stake in LAMBDAS]
        inputs = {"case": name, "slices": slices, "lambdas": LAMBDAS, "priors": PRIORS, "held_back": HELD_BACK}
        yield Oracle("confseq", "slices", math.log(_late(parts, len(slices))), inputs)
        margin = 0.04
        largest = 2.0 / (1.0 - margin)
        capitals = [_Capital((1.0 - excess) / 2.0, (1.0 - margin) / 2.0, share * largest) for share in OK_SHARES]
        proof = sum(prior * capital(0) for prior, capital in zip(OK_PRIORS, capitals, strict=True))
        inputs = {"case": name, "slices": slices, "margin": margin, "shares": OK_SHARES, "priors": OK_PRIORS}
        yield Oracle("confseq", "slices within the margin", math.log(proof), inputs)
        limit = 0.25
        shares = np.array([c / n_c for _, _, c, n_c in slices])
        parts = [_Capital(shares, limit, stake / limit) for stake in LAMBDAS]
        inputs = {"case": name, "slices": slices, "limit": limit, "lambdas": LAMBDAS, "priors": PRIORS}
        yield Oracle("confseq", "guarded slices", math.log(_late(parts, len(slices))), inputs)


class _Capital:
    """The capital of a bet of ``stake`` on "the mean is above ``null``", begun at a slice: confseq's own martingale."""

    def __init__(self, values: npt.NDArray[np.float64], null: float, stake: float) -> None:
        self.values, self.null, self.stake = values, null, stake

    def __call__(self, begin: int) -> float:
        _old_names()
        package: Any = import_module("confseq.betting")
        stake = self.stake
        path = package.betting_mart(
            self.values[begin:],
            self.null,
            lambdas_fn_positive=lambda x, _: np.full(len(x), stake),
            theta=1.0,
            trunc_scale=1.0,
            convex_comb=True,
        )
        return float(path[-1])


def _late(capitals: Sequence[_Capital], bets: int) -> float:
    """A mixture over stakes and over the bet at which each begins: part j = h (1 / log2(j + 1) - 1 / log2(j + 2))."""
    left = [HELD_BACK / math.log2(j + 2) for j in range(bets + 1)]
    total = left[-1]
    for prior, capital in zip(PRIORS, capitals, strict=True):
        late = sum((left[j] - left[j + 1]) * capital(j) for j in range(bets))
        total += prior * ((1.0 - HELD_BACK) * capital(0) + late)
    return total


def _old_names() -> None:
    """confseq 0.0.11 annotates with a name of numpy that numpy 2 dropped."""
    if not hasattr(np, "float_"):
        np.float_ = np.float64  # type: ignore[attr-defined]  # see above


def spotify() -> Iterator[Oracle]:
    """Requests of both arms for a two-sided test of fixed size of two rates around one half."""
    package: Any = import_module("spotify_confidence.samplesize.sample_size_calculator")
    for weight in (0.5, 0.2, 0.05):
        for alpha, power in ((0.05, 0.8), (0.01, 0.95)):
            shares = np.array([1.0 - weight, weight])
            effect = 2e-6
            total, _, _ = package.SampleSize.binomial(effect, 0.5, alpha, power, treatment_allocations=shares)
            inputs = {"weight": weight, "alpha": alpha, "power": power, "effect": effect}
            yield Oracle("spotify-confidence", "requests at fixed size", float(total), inputs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask all of them; a package that is missing ends the program with its name."""
    parser = argparse.ArgumentParser(description="Values of independent packages for the tests to compare with.")
    parser.add_argument("--out", type=Path, help="a file for one JSON line per value")
    asked = parser.parse_args(arguments)
    found = []
    for source in (savvi, confseq_mixtures, confseq_bets, spotify):
        for row in source():
            found.append(Oracle(row.package, row.quantity, row.value, row.inputs, version(row.package)))
            print(f"{found[-1].package} {found[-1].version}: {row.quantity} = {row.value!r}")
    write(asked.out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
