"""All routes at a glance, on 80 columns: what `gateway status --watch` redraws.

A route without a rollout is one line. A rollout under way comes first, and has its weight, the evidence both ways, the
metric that matters most, and the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from gateway.cli import gauges
from gateway.cli.tables import PHASE_STYLES
from gateway.client import RolloutBody, RouteView, one_line

_ENDED = frozenset({"PROMOTED", "ROLLED_BACK", "WITHDRAWN", "SUPERSEDED", "IDLE"})


def glance(
    routes: Sequence[RouteView], rollouts: Sequence[RolloutBody], not_ready: Sequence[str], width: int
) -> RenderableType:
    """Everything, the rollouts that are under way first."""
    by_id = {rollout.id: rollout for rollout in rollouts}
    lines = [_cut(Text(f"NOT READY: {one_line(reason)}", "bold red")) for reason in not_ready]
    for route in sorted(routes, key=lambda route: route.phase in _ENDED):
        lines += _route(route, by_id.get(route.rollout_id or ""), width)
    return Group(*lines)


def _route(route: RouteView, rollout: RolloutBody | None, width: int) -> Iterator[Text]:
    under_way = rollout is not None and route.phase not in _ENDED
    head = Text.assemble(
        (one_line(route.name), "bold"), "  ", (one_line(route.phase), PHASE_STYLES.get(route.phase, ""))
    )
    if rollout is not None:
        mirrors = rollout.mirror_percent
        head.append(f"  mirror {mirrors:g} %" if mirrors else f"  step {rollout.step}/{rollout.steps}")
    head.append(f"  {one_line(route.stable or '-')}", gauges.STABLE)
    if route.canary is not None:
        head.append(f" > {one_line(route.canary)}", gauges.CANARY)
    down = sum(endpoint.healthy is False for endpoint in route.endpoints)
    head.append(f"  {len(route.endpoints) - down}/{len(route.endpoints)} up", "red" if down else gauges.DIM)
    yield _cut(head)
    if route.warning:
        yield gauges.row("warning", route.warning, "yellow")
    if rollout is None:
        return
    if under_way:
        yield Text("  ").append_text(gauges.weight_bar(route.canary_percent, width - 2))
    analysis = rollout.analysis
    if under_way and analysis is not None:
        yield from gauges.evidence_rows(analysis, width)
        finding = gauges.telling(analysis)
        if finding is not None:
            yield gauges.row(finding.metric[:7], gauges.effect(finding))
        yield gauges.row("verdict", f"{analysis.verdict}: {analysis.reason}")
    yield gauges.row("why", rollout.waiting_for or rollout.reason)


def _cut(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
