"""Run every scenario of `gateway demo` with many seeds and report what came of them.

    python loadtests/demo_outcomes.py --seeds 10 --out outcomes.jsonl

Each run's summary is one JSON line in the file; the table at the end is Markdown. Exits with 1 if any run failed to
run, ended otherwise than its scenario promises, or showed a user a failure that a rescue could have prevented. One run
at a time: they share the machine with nothing but each other's absence.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gateway.demo.scenarios import SCENARIOS

_TIMEOUT_S = 180


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description="Outcomes of `gateway demo`, scenario by scenario.")
    parser.add_argument("--scenario", action="append", choices=tuple(SCENARIOS), help="repeatable; default: all")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each scenario (default: 10)")
    parser.add_argument("--first-seed", type=int, default=1, help="seeds count from here (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-outcomes.jsonl"), help="JSON lines (default: %(default)s)"
    )
    asked = parser.parse_args(arguments)
    summaries = []
    with asked.out.open("w", encoding="utf-8") as out:
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            for scenario in asked.scenario or SCENARIOS:
                summary = run(scenario, seed)
                summaries.append(summary)
                out.write(json.dumps(summary) + "\n")
                out.flush()
                print(line(summary), file=sys.stderr, flush=True)
    print(table(summaries))
    return 0 if all(fine(summary) for summary in summaries) else 1


def run(scenario: str, seed: int) -> dict[str, Any]:
    """One demo; its summary, or a stand-in with the phase FAILED and what it said."""
    command = [sys.executable, "-m", "gateway", "demo", "--scenario", scenario, "--seed", str(seed), "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return _failed(scenario, seed, f"no end within {_TIMEOUT_S} s")
    if done.returncode:
        return _failed(scenario, seed, f"status {done.returncode}: {done.stderr.strip()}")
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def _failed(scenario: str, seed: int, reason: str) -> dict[str, Any]:
    return {"scenario": scenario, "seed": seed, "phase": "FAILED", "reason": reason, "as_expected": False}


def fine(summary: dict[str, Any]) -> bool:
    """Whether a run ended as promised and no user saw a failure that a rescue could have prevented."""
    return bool(summary["as_expected"]) and not summary["failures_preventable"]


def line(summary: dict[str, Any]) -> str:
    """One run at a glance."""
    if summary["phase"] == "FAILED":
        return f"{summary['scenario']:13} seed {summary['seed']}: FAILED: {summary['reason']}"
    return (
        f"{summary['scenario']:13} seed {summary['seed']}: {summary['phase']} {'+'.join(summary['metrics'])}"
        f" after {_seconds(summary['decision_s'])} s and {summary['canary_requests']} canary requests;"
        f" {summary['rescued']} rescued, {summary['requests_failed_seen_by_users']} failed"
        f"{'' if fine(summary) else '   <-- not as promised'}"
    )


def table(summaries: Sequence[dict[str, Any]]) -> str:
    """The outcomes by scenario, as Markdown."""
    heads = ["scenario", "runs", "ends", "metrics", "as promised", "failures users saw (preventable)", "rescued"]
    heads += ["decision s: median (worst)", "canary requests: median (most)"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for scenario in dict.fromkeys(summary["scenario"] for summary in summaries):
        runs = [summary for summary in summaries if summary["scenario"] == scenario]
        ran = [summary for summary in runs if summary["phase"] != "FAILED"]
        cells = (
            scenario,
            str(len(runs)),
            _counted(summary["phase"] for summary in runs),
            _counted("+".join(summary["metrics"]) for summary in ran if summary["metrics"]),
            str(sum(summary["as_expected"] for summary in runs)),
            f"{_sum(ran, 'requests_failed_seen_by_users')} ({_sum(ran, 'failures_preventable')})",
            str(_sum(ran, "rescued")),
            _middle_and_top([summary["decision_s"] for summary in ran if summary["decision_s"] is not None], ".1f"),
            _middle_and_top([summary["canary_requests"] for summary in ran], ".0f"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _sum(summaries: Iterable[dict[str, Any]], key: str) -> int:
    return sum(summary[key] for summary in summaries)


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())


def _middle_and_top(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({max(values):{form}})" if values else ""


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
