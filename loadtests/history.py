"""What a long history costs: a state file with many past rollouts, its size, how long opening and asking take.

    python -m loadtests.history [--rollouts 10000] [--routes 20] [--keep PATH]

The rollouts are written through the journal as control writes them: six decisions each, five of them with an analysis
of twelve metrics, and the evidence over time. All numbers are random, so nothing compresses well. Then the file is
opened as at a start, and the archive is asked for pages, searched, and asked for a whole story. Times are the median of
ten, on this machine, whose load is printed.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gateway.control.decide.evidence_series import POINTS_MAX, SeriesLog
from gateway.control.decide.rollout_records import ROLLOUTS_KEPT, RolloutRecord
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.core.analysis.types import Analysis, Finding, Verdict
from gateway.core.rollout import AbortRequested, Event, Phase, Plan, PromoteRequested, Rollout, Started, Step, step

_METRICS = 12
_PLAN = Plan(steps=tuple(Step(bp, 60.0, 100) for bp in (100, 500, 2500, 5000)), deadline_s=3600.0)
_ASKED = 10


def analysis(dice: random.Random) -> Analysis:
    """Findings whose numbers do not repeat, as those of real rollouts."""
    findings = []
    for number in range(_METRICS):
        names = ("difference", "difference_low", "difference_high", "margin_low", "margin_high", "log_e_bad_needed")
        details = {name: dice.gauss(0, 1) for name in (*names, "log_e_ok_needed", "forecast_s")}
        sentence = f"metric {number}: canary {dice.random():.4%}, stable {dice.random():.4%}; no sign of harm yet"
        counts = (dice.randrange(100), dice.randrange(100_000), dice.randrange(100), dice.randrange(10_000))
        evidence = (dice.gauss(0, 2), dice.gauss(0, 2))
        findings.append(Finding(f"m{number}", Verdict.UNDECIDED, sentence, True, *evidence, *counts, details))
    return Analysis(
        Verdict.UNDECIDED, "not proven yet", (), tuple(findings), dice.random(), 4.6, 3.0, 90_000, dice.randrange(9000)
    )


def write(path: Path, rollouts: int, routes: int, seed: int) -> None:
    """A journal with so many rollouts that have ended."""
    dice = random.Random(seed)
    with SqliteStore.open(path) as store:
        store.file.connection.execute("PRAGMA synchronous = OFF")
        for number in range(rollouts):
            name, route = f"route-{number % routes}-{number:08x}", f"route-{number % routes}"
            start = Started(
                name, route, f"v{number}", f"v{number + 1}", _PLAN, 0.0, dice.choice(["ada", "grace", "ci"])
            )
            more: list[Event] = [PromoteRequested(float(at), "ada", "looks good", next_step=True) for at in range(6)]
            state = Rollout()
            wall_s = 1_700_000_000.0 + 600.0 * number
            series = SeriesLog()
            for event in (start, *more, AbortRequested(7.0, "ada", "too many errors")):
                if state.phase is Phase.PROMOTED and not isinstance(event, AbortRequested):
                    continue
                state, _ = step(state, event)
                found = None if isinstance(event, Started) else analysis(dice)
                store.journal.append(name, event, state, found, wall_s)
            if number >= rollouts - ROLLOUTS_KEPT:
                for second in range(POINTS_MAX):
                    found = analysis(dice)
                    view = RolloutRecord(state, found, wall_s, wall_s).view(state, found, 10)
                    series.take(view, wall_s + second, decided=False)
                points = series.to_save(name, wall_s, at_once=True)
                assert points is not None
                store.journal.save_series(name, points)
            if number % 50 == 49:
                store.journal.prune(ROLLOUTS_KEPT)
        store.journal.prune(ROLLOUTS_KEPT)


def timed(work: Callable[[], object]) -> str:
    """Milliseconds, the median of some."""
    taken = []
    for _ in range(_ASKED):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    return f"{statistics.median(taken):8.1f} ms ({min(taken):.1f} to {max(taken):.1f})"


def main() -> None:
    """Write, open, ask, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--routes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="where the state file is written, to be looked at")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.keep or Path(folder, "state.sqlite3")
        if not path.exists():
            write(path, given.rollouts, given.routes, given.seed)
        print(f"{given.rollouts} rollouts on {given.routes} routes: {path.stat().st_size / 1e6:.1f} MB")
        print(f"load {os.getloadavg()[0]:.1f}")
        print("open and check     ", timed(lambda: SqliteStore.open(path).close()))
        with SqliteStore.open(path) as store:
            archive = store.journal.archive
            print("what memory begins with", timed(store.journal.recent))
            last = archive.page(limit=200)[-1]
            print("a page of 50       ", timed(lambda: archive.page(limit=50, before=last.opened)))
            print("a page of a route  ", timed(lambda: archive.page("route-3", 50, last.opened)))
            print("a search, nothing  ", timed(lambda: archive.page(search="no such rollout")))
            print("one rollout        ", timed(lambda: archive.find(last.rollout.rollout_id)))
            print("its story          ", timed(lambda: store.journal.events(last.rollout.rollout_id)))


if __name__ == "__main__":
    main()
