"""What the dashboards' panels, queries and variables have in common.

Every panel says in its description what it shows and what to look for. Colours are the same everywhere: stable is blue,
the canary orange; both can be told apart without red and green.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard, prometheus, statetimeline, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
STABLE, CANARY = "blue", "orange"
Query = tuple[str, str]
"""An expression and its legend."""


def targets(queries: Sequence[Query], *, exemplars: bool) -> list[prometheus.Dataquery]:
    """The queries with their letters."""
    made = []
    for letter, (expression, legend) in zip(string.ascii_uppercase, queries, strict=False):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(letter).datasource(SOURCE)
        made.append(query.range().exemplar(exemplars))
    return made


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    span: int = 8,
    log: bool = False,
    band: tuple[str, str] | None = None,
    exemplars: bool = False,
) -> timeseries.Panel:
    """Values over time. ``log``: on a logarithmic axis. ``band``: the legends of an interval's ends, filled between."""
    panel = timeseries.Panel().title(title).description(description).unit(unit).span(span).height(8).datasource(SOURCE)
    panel = panel.line_width(2).fill_opacity(0).show_points(common.VisibilityMode.NEVER).span_nulls(span_nulls=False)
    panel = panel.override_by_regexp("/stable/", [_colour(STABLE)]).override_by_regexp("/canary/", [_colour(CANARY)])
    if log:
        from grafana_foundation_sdk.builders import common as builders  # noqa: PLC0415  # a name like the models'

        scale = builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        panel = panel.scale_distribution(scale)
    if band is not None:
        low, high = band
        filled = [
            models.DynamicConfigValue("custom.fillBelowTo", low),
            models.DynamicConfigValue("custom.lineWidth", 0),
        ]
        panel = panel.override_by_name(high, [*filled, models.DynamicConfigValue("custom.fillOpacity", 20)])
        panel = panel.override_by_name(low, [models.DynamicConfigValue("custom.lineWidth", 0)])
    for target in targets(queries, exemplars=exemplars):
        panel = panel.with_target(target)
    return panel


def states(
    title: str, description: str, *queries: Query, names: dict[int, tuple[str, str]], span: int = 8
) -> statetimeline.Panel:
    """States over time; ``names`` has the word and the colour of each value."""
    mapped = {str(value): models.ValueMappingResult(text=word, color=colour) for value, (word, colour) in names.items()}
    panel = statetimeline.Panel().title(title).description(description).unit("none").span(span).height(8)
    panel = panel.datasource(SOURCE).mappings([models.ValueMap(options=mapped)])
    for target in targets(queries, exemplars=False):
        panel = panel.with_target(target)
    return panel


def _colour(name: str) -> models.DynamicConfigValue:
    return models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": name})


def board(title: str, uid: str, description: str, *, route: str | None = None) -> dashboard.Dashboard:
    """An empty dashboard. ``route``: ``one`` or ``many`` of them can be chosen."""
    made = dashboard.Dashboard(title).uid(uid).description(description).tags(["canary-gateway"]).editable()
    made = made.time("now-15m", "now").refresh("5s").timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
    made = made.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    if route is not None:
        variable = dashboard.QueryVariable("route").label("Route").datasource(SOURCE)
        variable = variable.query("label_values(gateway_canary_weight_ratio, route)")
        variable = variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        variable = variable.sort(models.VariableSort.ALPHABETICAL_ASC)
        if route == "many":
            everything = models.VariableOption(selected=True, text=["All"], value=["$__all"])
            variable = variable.multi(multi=True).include_all(include_all=True).current(everything)
        made = made.with_variable(variable)
    other = dashboard.DashboardLink("Canary gateway").type(models.DashboardLinkType.DASHBOARDS)
    return made.link(other.tags(["canary-gateway"]).as_dropdown(as_dropdown=True).include_vars(include_vars=True))
