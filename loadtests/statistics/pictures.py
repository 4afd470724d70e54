"""The pictures of docs/statistics.md, from the JSON lines that the other programs of this folder wrote.

    python -m loadtests.statistics.pictures [--results loadtests/statistics/results] [--out docs/pictures]

Needs matplotlib (the extra `stats`); nothing else here does.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.core.analysis.betting.eprocess import NOT_WORSE, Rates
from gateway.core.analysis.sizing.limit import requests_at_limit

BASE = 0.01
ALPHA = 0.01
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "gateway", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
_SIZE = (6.4, 3.6)


def rows(path: Path, table: str) -> list[dict[str, Any]]:
    """The rows of one table in a file of JSON lines."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in found if row["table"] == table]


def detection(axes: Any, results: Path) -> None:
    """Requests to FAIL against the effect, one colour per weight; dashed: the limit."""
    found = [
        row
        for row in rows(results / "detection.jsonl", "detection")
        if row["stable"] == BASE and row["alpha"] == ALPHA and row["share"] == 1.0 and row["held_back"] > 1e-6
    ]
    for weight in sorted({row["weight"] for row in found}):
        mine = sorted((row for row in found if row["weight"] == weight), key=lambda row: row["canary"])
        effects = [row["canary"] / row["stable"] for row in mine]
        (line,) = axes.plot(effects, [row["requests"] for row in mine], "o-", label=f"weight {100 * weight:g} %")
        limits = [requests_at_limit(Rates(BASE, row["canary"]), NOT_WORSE, weight, ALPHA) for row in mine]
        axes.plot(effects, limits, "--", color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel="canary's failure rate / stable's (1 %)", ylabel="requests to FAIL")
    axes.set_xticks([1.5, 2, 4, 10, 50], ["1.5", "2", "4", "10", "50"])
    axes.set_xticks([], minor=True)
    axes.set_title("Time to conviction (dashed: no test can be faster), alpha 1 %")
    axes.legend()


def alarms(axes: Any, results: Path) -> None:
    """Healthy canaries convicted over time, under pauses."""
    found = rows(results / "paths.jsonl", "curve")
    for weight in sorted({row["weight"] for row in found}):
        mine = [row for row in found if row["weight"] == weight]
        times = [row["at_s"] for row in mine]
        label = f"{mine[0]['requests_per_s']:g} requests/s, weight {100 * weight:g} %"
        (line,) = axes.plot(times, [100 * row["by_requests"] for row in mine], ":", label=f"{label}, by requests alone")
        axes.plot(times, [100 * row["guarded"] for row in mine], color=line.get_color(), label=label)
    axes.axhline(100 * ALPHA, color="black", linewidth=0.8, linestyle="--", label="alpha")
    axes.set(yscale="symlog", xlabel="seconds", ylabel="healthy canaries convicted, %", ylim=(0, 110))
    axes.set_title("False alarms when each arm pauses for 300 ms every 20 s")
    axes.legend(fontsize=7)


def example(axes: Any, results: Path) -> None:
    """The evidence of one rollout."""
    found = rows(results / "paths.jsonl", "example")
    times = [row["at_s"] for row in found]
    axes.plot(times, [row["ok"] for row in found], label="for 'good enough' (E_ok)")
    axes.plot(times, [row["bad"] for row in found], label="for 'worse than stable' (E_bad)")
    axes.axhline(found[0]["ok_needed"], color="C0", linestyle="--", linewidth=0.8)
    axes.axhline(found[0]["bad_needed"], color="C1", linestyle="--", linewidth=0.8)
    axes.axvline(60.0, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="seconds", ylabel="log10 of the evidence", ylim=(-4, math.ceil(max(r["ok"] for r in found)) + 1))
    axes.set_title("A canary that breaks after 60 s (dashed: what PASS and FAIL need)")
    axes.legend()


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw all of them."""
    import matplotlib as mpl  # noqa: PLC0415  # an extra: the tests of this module's readers do without
    from matplotlib.figure import Figure  # noqa: PLC0415  # as above

    parser = argparse.ArgumentParser(description="The pictures of docs/statistics.md.")
    parser.add_argument("--results", type=Path, default=Path("loadtests/statistics/results"))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]  # its keys are typed one by one
    for name, draw in (("detection", detection), ("false-alarms", alarms), ("evidence", example)):
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure.subplots(), asked.results)
        figure.savefig(asked.out / f"{name}.svg", metadata={"Date": None})
        print(asked.out / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
