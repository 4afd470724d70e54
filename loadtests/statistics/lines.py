"""What the programs of this folder share: their options, results as JSON lines, and the bound on counted errors."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scipy.stats import beta


def options(description: str, runs: int) -> argparse.ArgumentParser:
    """``--runs``, ``--seed`` and ``--out``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=runs, help="simulated rollouts per row")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file for one JSON line per row")
    parser.set_defaults(since_s=time.monotonic())
    return parser


def finish(asked: argparse.Namespace, rows: Iterable[Any], bounded: Iterable[Any] = ()) -> int:
    """The end of a program: what was drawn and how long it took, the results to ``--out``, and the exit status.

    That is 1 when one of the ``bounded`` rows has a bound beyond its alpha.
    """
    print(f"\nseed {asked.seed}, {time.monotonic() - asked.since_s:.0f} s")
    write(asked.out, rows)
    return beyond(bounded)


def alarms_in(row: Any) -> str:
    """Two cells of a table: how many rollouts of how many were convicted, and the bound of that share."""
    return f"{row.alarms} of {row.runs} | {100 * row.upper:.2f} %"


def upper_bound(errors: int, runs: int, confidence: float = 0.95) -> float:
    """The one-sided Clopper-Pearson bound of an error probability that was seen ``errors`` times in ``runs``."""
    return 1.0 if errors == runs else float(beta.ppf(confidence, errors + 1, runs - errors))


def beyond(rows: Iterable[Any]) -> int:
    """Print each row (``alpha``, ``upper``) whose bound lies beyond its alpha; the exit status that says so."""
    found = [row for row in rows if row.upper > row.alpha]
    for row in found:
        print(f"BEYOND ITS ALPHA: {row}")
    return int(bool(found))


def write(path: Path | None, rows: Iterable[Any]) -> None:
    """One JSON object per row (a dataclass) to ``path``; what never happened is null. Nothing without a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(_finite(asdict(row))) + "\n" for row in rows))


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
