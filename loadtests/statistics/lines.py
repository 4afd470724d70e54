"""What the programs of this folder share: their options, results as JSON lines, and the bound on counted errors."""

from __future__ import annotations

import argparse
import json
import math
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
    return parser


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
