"""A run as Markdown: medians over its rounds, and how far the rounds lie apart.

A ratio is taken within each round, where both sides met the machine in the same mood, and only then is its median
taken; the parentheses hold the least and the greatest of the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median

from loadtests.compare.record import Measured, Run
from loadtests.compare.workloads import WORKLOADS

_SUBJECT = "gateway"
_HEAD = ("proxy", "CPU µs/request", "÷ nginx", "requests/s", "core", "p50 µs", "p99 µs", "RSS MiB", "errors")

TARGETS = (
    ("small", "nginx", 1.5),
    ("small", "envoy", 0.55),
    ("small", "relay", 2.0),
    ("upload", "nginx", 2.0),
    ("download", "nginx", 2.0),
)
"""How much CPU per request the gateway may take: a workload, whose CPU, and how many times that."""
_QUIET_PERCENT = 5.0
P99_OVER_NGINX_US = 500.0
RSS_IDLE_MIB = 45.0
TWO_WORKERS_MIN = 1.7
_CORES_OF_TWO = 4


def document(run: Run, measured: Sequence[Measured]) -> str:
    """Everything about a run."""
    workloads = [name for name in WORKLOADS if name in {entry.workload for entry in measured}]
    parts = [_circumstances(run), *_disturbed(run, measured)]
    parts += [_workload(run, name, [entry for entry in measured if entry.workload == name]) for name in workloads]
    others = [name for name in run.proxies if name not in {_SUBJECT, "two"}]
    if _SUBJECT in run.proxies and others:
        parts.append(_ratios(workloads, others, measured))
        parts.append(_targets(run, measured))
    return "\n\n".join(parts) + "\n"


def ratios(measured: Iterable[Measured], workload: str, proxy: str, other: str) -> list[float]:
    """The proxy's CPU per request over the other's, for each round that has both."""
    costs = {(entry.round, entry.proxy): entry.cpu_us for entry in measured if entry.workload == workload}
    pairs = [(cost, costs.get((number, other))) for (number, name), cost in costs.items() if name == proxy]
    return [cost / reference for cost, reference in pairs if cost and reference]


def spread(values: Sequence[float], digits: int) -> str:
    """Median, and least and greatest where they differ from it: ``2.91 (2.85..3.02)``; a dash for nothing."""
    if not values:
        return "-"
    middle, least, greatest = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if least == greatest else f"{middle} ({least}..{greatest})"


def _circumstances(run: Run) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()))
    shared = " Proxy, client and backend shared one core." if run.shared_core else ""
    return (
        f"Run of {run.run}: commit `{run.commit or 'unknown'}`, {run.rounds} round(s) of {run.seconds} s for each load,"
        f" {run.cpus} cores ({run.processor}), Linux {run.kernel}.{shared}\n\nVersions: {versions}."
    )


def _disturbed(run: Run, measured: Sequence[Measured]) -> Iterator[str]:
    """How much of the proxy's core went to others, and what that does to the figures."""
    shares = [100 * entry.others for entry in measured if entry.others is not None]
    if not shares or run.shared_core:
        return
    said = f"Processes outside of the comparison took {spread(shares, 0)} % of the proxy's core."
    if median(shares) > _QUIET_PERCENT:
        said += (
            " **Too much for latencies and throughputs to mean anything**; CPU per request is merely inflated by it."
        )
    yield said


def _workload(run: Run, name: str, measured: Sequence[Measured]) -> str:
    workload = WORKLOADS[name]
    present = {entry.proxy for entry in measured}
    what = "times of single events" if workload.events else "times"
    load = f"{workload.connections} requests under way; {what} at a fixed {run.rates[name]:.0f} requests/s"
    lines = [
        f"**{name}**: {workload.title}. {load}.",
        "",
        *_table(_HEAD, (_row(proxy, measured) for proxy in ("direct", *run.proxies) if proxy in present)),
    ]
    aside = [entry for entry in measured if entry.aside_cpu_ms_per_s is not None]
    if aside:
        cpu_ms, rss_mib = (
            median(entry.aside_cpu_ms_per_s or 0 for entry in aside),
            median(entry.aside_rss_kib or 0 for entry in aside) / 1024,
        )
        lines += [
            "",
            f"Supervisor and control beside the worker: {cpu_ms:.1f} ms of CPU per second, {rss_mib:.0f} MiB.",
        ]
    return "\n".join(lines)


def _row(proxy: str, measured: Sequence[Measured]) -> list[str]:
    mine = [entry for entry in measured if entry.proxy == proxy]

    def middle(read: Callable[[Measured], float | None], form: str = ".0f") -> str:
        values = [value for entry in mine if (value := read(entry)) is not None]
        return format(median(values), form) if values else "-"

    return [
        proxy,
        spread([entry.cpu_us for entry in mine if entry.cpu_us is not None], 1),
        spread(ratios(measured, mine[0].workload, proxy, "nginx"), 2) if mine else "-",
        middle(lambda entry: entry.per_s),
        middle(lambda entry: entry.busy, ".0%"),
        middle(lambda entry: entry.p50_us),
        middle(lambda entry: entry.p99_us),
        middle(lambda entry: entry.rss_peak_kib and entry.rss_peak_kib / 1024),
        str(sum(entry.errors for entry in mine)),
    ]


def _ratios(workloads: Sequence[str], others: Sequence[str], measured: Sequence[Measured]) -> str:
    rows = ([name, *(spread(ratios(measured, name, _SUBJECT, other), 2) for other in others)] for name in workloads)
    lines = _table(["workload", *(f"÷ {other}" for other in others)], rows)
    return "\n".join([f"CPU per request of the {_SUBJECT}, as a multiple of the others':", "", *lines])


def _targets(run: Run, measured: Sequence[Measured]) -> str:
    return "\n".join(["Targets:", "", *_table(["target", "allowed", "measured", "met"], _judged(run, measured))])


def _judged(run: Run, measured: Sequence[Measured]) -> Iterator[list[str]]:
    for workload, other, allowed in TARGETS:
        if found := ratios(measured, workload, _SUBJECT, other):
            yield _verdict(f"CPU on {workload}, ÷ {other}", allowed, median(found), spread(found, 2), 2)
    if excess := _p99_over_nginx_us(measured):
        yield _verdict("p99 on small over nginx's, µs", P99_OVER_NGINX_US, median(excess), spread(excess, 0), 0)
    idle = [entry.rss_idle_kib / 1024 for entry in measured if entry.proxy == _SUBJECT and entry.rss_idle_kib]
    if idle:
        yield _verdict("idle worker's RSS, MiB", RSS_IDLE_MIB, median(idle), spread(idle, 1), 0)
    if gains := scaling(run, measured):
        how = "requests/s" if run.cpus >= _CORES_OF_TWO else "capacity by CPU"
        met = "yes" if median(gains) >= TWO_WORKERS_MIN else "no"
        yield [f"two workers' {how}, ÷ one's", f"≥ {TWO_WORKERS_MIN:.2f}", spread(gains, 2), met]


def scaling(run: Run, measured: Sequence[Measured]) -> list[float]:
    """How many times the work of one worker two can do, for each round that has both.

    Where each of them, client and backend can have a core, that is the ratio of their throughputs. Where they cannot,
    it is computed from what was measured: two full cores are as good as two divided by what a request costs with two
    workers, and no better than their busier one.
    """
    one = {entry.round: entry for entry in measured if (entry.workload, entry.proxy) == ("small", _SUBJECT)}
    two = {entry.round: entry for entry in measured if (entry.workload, entry.proxy) == ("small", "two")}
    both = [(one[number], entry) for number, entry in two.items() if number in one]
    if run.cpus >= _CORES_OF_TWO:
        return [many.per_s / single.per_s for single, many in both]
    return [
        single.cpu_us / (many.cpu_us * many.busiest)
        for single, many in both
        if single.cpu_us and many.cpu_us and many.busiest
    ]


def _p99_over_nginx_us(measured: Sequence[Measured]) -> list[float]:
    times = {(entry.round, entry.proxy): entry.p99_us for entry in measured if entry.workload == "small"}
    pairs = [(times.get((number, _SUBJECT)), p99) for (number, name), p99 in times.items() if name == "nginx"]
    return [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]


def _verdict(target: str, allowed: float, middle: float, shown: str, digits: int) -> list[str]:
    met = "yes" if middle <= allowed else f"no, {middle / allowed:.1f} times that"
    return [target, f"≤ {allowed:.{digits}f}", shown, met]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
