"""The tables of docs/statistics.md, from the JSON lines that the other programs of this folder wrote.

    python -m loadtests.statistics.tables [--results loadtests/statistics/results] [--page docs/statistics.md]

What stands on the page between `<!-- table: NAME -->` and `<!-- end -->` is written anew; tests/statistics holds the
page to the results, so that no figure there is older than what was measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
RESULTS = Path("loadtests/statistics/results")
PAGE = Path("docs/statistics.md")
_MARKED = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rows(results: Path, program: str, table: str) -> list[Row]:
    """The rows of one table in the file of one program; none while it has not run."""
    path = results / f"{program}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if row["table"] == table]


def markdown(head: Sequence[str], body: Iterator[Sequence[str]]) -> str:
    """A table with its head."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *body)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) + "\n"


def percent(share: float, digits: int | None = None) -> str:
    """0.01 as ``1 %``."""
    return f"{100 * share:g} %" if digits is None else f"{100 * share:.{digits}f} %"


def pair(row: Row) -> str:
    """``0.1 -> 1 %``."""
    return f"{100 * row['stable']:g} -> {100 * row['canary']:g} %"


def _alone(row: Row) -> bool:
    return bool(row["share"] == 1.0 and row["held_back"] > 1e-6)


def _by_weight(found: list[Row]) -> str:
    weights = sorted({row["weight"] for row in found})

    def body() -> Iterator[list[str]]:
        for alpha, stable, canary in dict.fromkeys((r["alpha"], r["stable"], r["canary"]) for r in found):
            mine = [r for r in found if (r["alpha"], r["stable"], r["canary"]) == (alpha, stable, canary)]
            at = {r["weight"]: f"{r['ratio']:.2f} ± {r['error']:.2f}" for r in mine}
            yield [f"{alpha:g}", pair(mine[0]), *(at.get(weight, "") for weight in weights)]

    return markdown(["alpha", "stable -> canary", *(f"w = {percent(w)}" for w in weights)], body())


def _mean_worst(found: list[Row], key: str = "ratio") -> tuple[str, str]:
    ratios = [row[key] for row in found]
    if not ratios:
        return "-", "-"
    return f"{sum(ratios) / len(ratios):.3f}", f"{max(ratios):.2f}"


def detection(results: Path) -> str:
    """R of every row, without the guard."""
    return _by_weight([row for row in rows(results, "detection", "detection") if _alone(row)])


def summary(results: Path) -> str:
    """Mean and worst R by what decides."""
    found = rows(results, "detection", "detection")
    kinds: list[tuple[str, float, Callable[[Row], bool]]] = [
        ("one metric", 0.01, _alone),
        ("one metric", 0.001, _alone),
        ("`errors` among the default metrics (half of alpha)", 0.01, lambda r: r["share"] == 0.5),
        ("one of three metrics with equal shares", 0.01, lambda r: 0.3 < r["share"] < 0.4 and r["held_back"] > 1e-6),
        ("one metric, nothing held back for a late start", 0.01, lambda r: r["share"] == 1.0 and not _alone(r)),
        ("one of three, nothing held back", 0.01, lambda r: 0.3 < r["share"] < 0.4 and r["held_back"] < 1e-6),
    ]

    def body() -> Iterator[list[str]]:
        for name, alpha, chosen in kinds:
            mine = [row for row in found if row["alpha"] == alpha and chosen(row)]
            if mine:
                yield [name, f"{alpha:g}", *_mean_worst(mine), str(mine[0]["runs"])]

    return markdown(["what decides", "alpha", "mean R", "worst row", "rollouts a row"], body())


def guarded(results: Path) -> str:
    """Mean and worst R with the guard, by traffic, and the mean without it on the same rollouts."""

    def body() -> Iterator[list[str]]:
        for r in rows(results, "guarded", "guarded summary"):
            change = f"{100 * r['worst_stable']:g} -> {100 * r['worst_canary']:g} %"
            where = f"{r['worst']:.2f} ({change}, w = {percent(r['worst_weight'])})"
            yield [
                f"{r['alpha']:g}",
                f"{r['requests_per_s']:g}",
                f"{r['ratio']:.3f}",
                where,
                f"{r['ratio_by_requests']:.3f}",
            ]

    return markdown(["alpha", "requests/s", "mean R", "worst row", "mean R without the guard"], body())


def alarms(results: Path) -> str:
    """Equal arms, one metric."""
    return markdown(
        ["world", "alpha", "false alarms", "95 % upper bound"],
        (
            [r["world"], f"{r['alpha']:g}", f"{r['alarms']} of {r['runs']}", percent(r["upper"], 2)]
            for r in rows(results, "detection", "false alarms")
        ),
    )


def _beside(row: Row) -> list[str]:
    alarms_ = f"{row['alarms']} of {row['runs']} ({percent(row['upper'], 2)})"
    return [alarms_, percent(row["alarms_by_requests"] / row["runs"], 1)]


def bursts(results: Path) -> str:
    """Healthy canaries under bursts, both alphas side by side."""
    found = rows(results, "bursts", "bursts")

    def body() -> Iterator[list[str]]:
        for where in dict.fromkeys((r["world"], r["requests_per_s"], r["weight"]) for r in found):
            cells = [where[0], f"{where[1]:g}", percent(where[2])]
            mine = {r["alpha"]: r for r in found if (r["world"], r["requests_per_s"], r["weight"]) == where}
            for alpha in (0.05, 0.01):
                r = mine.get(alpha)
                cells += _beside(r) if r else ["", ""]
            yield cells

    by = "by requests alone"
    return markdown(
        ["world", "requests/s", "weight", "alpha 5 %: alarms (bound)", by, "alpha 1 %: alarms (bound)", by], body()
    )


def tolerances(results: Path) -> str:
    """Canaries at the edge of a tolerance, both alphas side by side."""
    found = rows(results, "tolerances", "tolerances")
    keys = ("tolerance_ratio", "tolerance_delta", "world", "requests_per_s", "weight")

    def body() -> Iterator[list[str]]:
        for where in dict.fromkeys(tuple(r[key] for key in keys) for r in found):
            mine = {r["alpha"]: r for r in found if tuple(r[key] for key in keys) == where}
            cells = [_beside(r) for _, r in sorted(mine.items(), reverse=True)]
            ratio, delta, world, traffic, weight = where
            tolerance = f"{ratio:g} x or + {100 * delta:g} points"
            yield [tolerance, world, f"{traffic:g}", percent(weight), *(cell for pair_ in cells for cell in pair_)]

    by = "by requests alone"
    head = ["tolerance", "world", "requests/s", "weight", "alpha 5 %: alarms (bound)", by]
    return markdown([*head, "alpha 1 %: alarms (bound)", by], body())


def whole(results: Path) -> str:
    """The engine itself, all metrics, under bursts."""
    return markdown(
        ["requests/s", "weight", "alpha", "false alarms", "95 % upper bound", "named as the cause"],
        (
            [
                *(f"{r['requests_per_s']:g}", percent(r["weight"]), f"{r['alpha']:g}"),
                *(f"{r['alarms']} of {r['runs']}", percent(r["upper"], 2)),
                ", ".join(f"`{metric}` {n}" for metric, n in r["causes"].items()) or "-",
            ]
            for r in rows(results, "whole", "whole")
        ),
    )


def convictions(results: Path) -> str:
    """Median seconds until a broken canary is convicted."""
    found = rows(results, "bursts", "convictions")
    weights = sorted({r["weight"] for r in found})

    def seconds(value: float | None) -> str:
        return "over 240" if value is None or value > 240.0 else f"{value:.1f}"

    def body() -> Iterator[list[str]]:
        for canary, traffic in dict.fromkeys((r["canary"], r["requests_per_s"]) for r in found):
            mine = [r for r in found if (r["canary"], r["requests_per_s"]) == (canary, traffic)]
            plain = ", ".join(seconds(r["median_s_by_requests"]) for r in mine)
            yield [canary, f"{traffic:g}", *(seconds(r["median_s"]) for r in mine), plain]

    return markdown(["canary", "requests/s", *(f"w = {percent(w)}" for w in weights), "by requests alone"], body())


def _margin(row: Row) -> str:
    return f"{row['margin_ratio']:g} x or + {100 * row['margin_delta']:g} points"


def promotion(results: Path) -> str:
    """R of PASS."""
    found = rows(results, "promotion", "promotion")
    weights = sorted({r["weight"] for r in found})

    def body() -> Iterator[list[str]]:
        for where in dict.fromkeys((r["rate"], r["margin_ratio"], r["margin_delta"]) for r in found):
            mine = [r for r in found if (r["rate"], r["margin_ratio"], r["margin_delta"]) == where]
            at = {r["weight"]: f"{r['ratio']:.2f} ± {r['error']:.2f}" for r in mine}
            wanted = {r["weight"]: f"{r['canary_requests']:,.0f}" for r in mine}
            yield [percent(where[0]), _margin(mine[0]), *(at.get(w, "") for w in weights), wanted.get(0.05, "")]

    head = ["rate", "margin", *(f"R at w = {percent(w)}" for w in weights), "canary requests at 5 %"]
    mean, worst = _mean_worst(found)
    return markdown(head, body()) + f"\nMean R {mean}, worst row {worst}.\n"


def wrong(results: Path) -> str:
    """Canaries at the margin that were passed, failures independent."""
    return markdown(
        ["margin", "stable -> canary", "weight", "alpha", "wrongly passed", "95 % upper bound"],
        (
            [
                *(_margin(r), pair(r), percent(r["weight"]), f"{r['alpha']:g}"),
                *(f"{r['passed']} of {r['runs']}", percent(r["upper"], 2)),
            ]
            for r in rows(results, "promotion", "wrong promotions")
        ),
    )


def wrong_in_bursts(results: Path) -> str:
    """The same, both arms in bursts."""
    return markdown(
        ["canary", "requests/s", "weight", "alpha", "wrongly passed", "95 % upper bound", "by requests alone"],
        (
            [
                *(r["world"], f"{r['requests_per_s']:g}", percent(r["weight"]), f"{r['alpha']:g}"),
                *(f"{r['passed']} of {r['runs']}", percent(r["upper"], 2)),
                percent(r["passed_by_requests"] / r["runs"], 1),
            ]
            for r in rows(results, "promotion", "wrong promotions in bursts")
        ),
    )


def outcomes(results: Path) -> str:
    """Outcome classes whose share is the same in both arms."""
    return _both_alphas(rows(results, "outcomes", "outcomes"), "class", "share in both arms")


def metrics(results: Path) -> str:
    """The other metrics and the bake."""
    return _both_alphas(rows(results, "metrics", "metrics"), "metric", "world")


def _both_alphas(found: list[Row], metric: str, world: str) -> str:
    """Alarms of each metric in each world, both alphas side by side."""

    def body() -> Iterator[list[str]]:
        for where in dict.fromkeys((r["metric"], r["world"]) for r in found):
            mine = {r["alpha"]: r for r in found if (r["metric"], r["world"]) == where}
            cells = [f"{r['alarms']} of {r['runs']} ({percent(r['upper'], 2)})" for _, r in sorted(mine.items())]
            yield [*where, *reversed(cells)]

    return markdown([metric, world, "alpha 5 %: alarms (bound)", "alpha 1 %: alarms (bound)"], body())


def answers(results: Path) -> str:
    """Failures inside of answers, equal versions, both alphas side by side."""
    found = rows(results, "answers", "answers")
    apart = {r["world"]: percent(r["alarms"] / r["runs"], 0) for r in rows(results, "answers", "answers contrast")}

    def body() -> Iterator[list[str]]:
        for world in dict.fromkeys(r["world"] for r in found):
            mine = sorted((r for r in found if r["world"] == world), key=lambda r: -float(r["alpha"]))
            cells = [f"{r['alarms']} of {r['runs']} ({percent(r['upper'], 2)})" for r in mine]
            yield [world, *cells, apart.get(world, "")]

    bounds = ("alpha 5 %: alarms (bound)", "alpha 1 %: alarms (bound)")
    return markdown(["answers of both versions", *bounds, "1 %, with a budget for each version"], body())


def bad_answers(results: Path) -> str:
    """Failures inside of answers of the canary alone."""

    def body() -> Iterator[list[str]]:
        for r in rows(results, "answers", "answers convictions"):
            seconds = "over 120 s" if r["median_s"] is None else f"{r['median_s']:.1f} s"
            yield [percent(r["canary"]), percent(r["weight"]), seconds, f"{r['median_read']:.0f}", str(r["runs"])]

    head = ["canary's error bodies", "weight", "median time to FAIL", "answers read of both", "rollouts"]
    return markdown(head, body())


def sticky(results: Path) -> str:
    """Sessions and requests as units."""
    return markdown(
        ["failing sessions, stable -> canary", "weight", "alpha", "convicted by sessions", "bound", "by requests"],
        (
            [
                *(f"0.5 -> {100 * r['canary']:g} %", percent(r["weight"]), f"{r['alpha']:g}"),
                *(f"{r['by_sessions']} of {r['runs']}", percent(r["upper"], 2) if r["canary"] == 0.005 else ""),
                percent(r["by_requests"] / r["runs"], 1),
            ]
            for r in rows(results, "sticky", "sticky")
        ),
    )


def intervals(results: Path) -> str:
    """What is shown, against the truth."""
    return markdown(
        ["rates", "true ratio", "ratio missed", "difference missed", "95 % upper bound", "ratio of one stratum missed"],
        (
            [
                *(r["world"], f"{r['ratio']:g}", f"{r['missed_ratio']} of {r['runs']}"),
                *(f"{r['missed_difference']} of {r['runs']}", percent(r["upper"], 2)),
                f"{r['missed_pooled']} of {r['runs']}",
            ]
            for r in rows(results, "intervals", "intervals")
        ),
    )


def rules(results: Path) -> str:
    """The gateway beside other rules."""

    def number(value: float | None, unit: str = "") -> str:
        return "-" if value is None else f"{value:,.0f}{unit}"

    return markdown(
        ["traffic", "rule", "rolled back", "promoted", "median time", "requests", "bad"],
        (
            [
                *(r["scenario"], r["rule"], f"{r['rollbacks']} of {r['runs']}", f"{r['promotions']} of {r['runs']}"),
                *(number(r["median_s"], " s"), number(r["median_requests"]), number(r["bad_let_through"])),
            ]
            for r in rows(results, "rules", "rules")
        ),
    )


def known(results: Path) -> str:
    """Whole rollouts of what is not known yet."""
    return markdown(
        ["world", "requests/s", "promoted", "rolled back", "median time"],
        (
            [
                r["world"],
                f"{r['requests_per_s']:g}",
                f"{r['promoted']} of {r['runs']}",
                f"{r['rolled_back']} of {r['runs']}",
                "-" if r["median_s"] is None else f"{r['median_s']:.0f} s",
            ]
            for r in rows(results, "known", "known")
        ),
    )


def returning(results: Path) -> str:
    """Users who come back."""
    return markdown(
        ["world", "weight", "wrongly convicted", "95 % upper bound", "median time to FAIL"],
        (
            [
                r["world"],
                percent(r["weight"]),
                f"{r['alarms']} of {r['runs']}",
                percent(r["upper"], 2),
                "-" if r["median_s"] is None else f"{r['median_s']:.1f} s",
            ]
            for r in rows(results, "returning", "returning")
        ),
    )


def weather(results: Path) -> str:
    """Healthy canaries in everyday weather: stable's past known, unknown, and by requests alone."""
    return markdown(
        ["bad moments of each arm", "requests/s", "weight", "rolled back", "stable unknown", "by requests alone"],
        (
            [
                *(r["world"], f"{r['requests_per_s']:g}", percent(r["weight"])),
                f"{r['alarms']} of {r['runs']} ({percent(r['upper'], 1)})",
                *(str(r["alarms_unknown"]), str(r["alarms_by_requests"])),
            ]
            for r in rows(results, "weather", "weather")
        ),
    )


def dense(results: Path) -> str:
    """Mean seconds until a bad canary is convicted, beside the limit."""

    def seconds(value: float | None) -> str:
        return "not always" if value is None else f"{value:.1f} s"

    return markdown(
        [
            *("bad moments", "stable -> canary", "requests/s", "weight", "healthy for", "limit", "mean"),
            *("stable unknown", "by requests alone"),
        ],
        (
            [
                *(r["world"], pair(r), f"{r['requests_per_s']:g}", percent(r["weight"]), f"{r['healthy_s']:g} s"),
                seconds(r["limit_s"]) if r["limit_s"] else "-",
                *(seconds(r[f"mean_s{by}"]) for by in ("", "_unknown", "_by_requests")),
            ]
            for r in rows(results, "weather", "dense")
        ),
    )


TABLES: dict[str, Callable[[Path], str]] = {
    "weather": weather,
    "dense": dense,
    "detection": detection,
    "summary": summary,
    "guarded": guarded,
    "alarms": alarms,
    "bursts": bursts,
    "tolerances": tolerances,
    "whole": whole,
    "convictions": convictions,
    "promotion": promotion,
    "wrong": wrong,
    "wrong-in-bursts": wrong_in_bursts,
    "metrics": metrics,
    "outcomes": outcomes,
    "answers": answers,
    "bad-answers": bad_answers,
    "sticky": sticky,
    "rules": rules,
    "intervals": intervals,
    "known": known,
    "returning": returning,
}


def written(page: str, results: Path) -> str:
    """The page with its tables made from the results."""
    return _MARKED.sub(lambda found: found[1] + TABLES[found[2]](results) + found[3], page)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page's tables."""
    parser = argparse.ArgumentParser(description="The tables of docs/statistics.md from the results.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args(arguments)
    asked.page.write_text(written(asked.page.read_text(encoding="utf-8"), asked.results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
