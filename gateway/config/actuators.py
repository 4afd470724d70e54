"""The section ``actuators``: routes whose traffic something else splits, as this gateway's rollouts say.

The split is an InferenceService's; what both versions do is read from Prometheus. Tokens come from files or the
environment, never from this file, which is read, copied and shown.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.alert_receivers import WebhookUrl
from gateway.config.errors import BadValue, Issue, issues_in, show
from gateway.config.secret_values import variable
from gateway.config.section import EnvironmentName, FilePath, RouteName, Seconds, Section
from gateway.config.shape import Doc, Noun
from gateway.config.sources import route_names

ACTUATORS_MAX = 100
REVISION = "$revision"
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SELECTOR = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\{[^{}]*\}")
_KUBERNETES_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def _selector(text: str) -> str:
    if not _SELECTOR.fullmatch(text.strip()):
        raise BadValue(
            f"{show(text)} is not a selector of a counter",
            'write metric{label="value"}, without functions and ranges: the gateway reads the samples themselves',
        )
    if REVISION not in text:
        raise BadValue(
            f"{show(text)} does not say {REVISION}", f'select one version, such as revision_name="{REVISION}"'
        )
    return text.strip()


_kubernetes_name = grammar.matching(_KUBERNETES_NAME, "is not a name of Kubernetes", "use a-z, 0-9, hyphens and dots")


_label = grammar.matching(_LABEL, "is not a label's name", "use letters, digits and underscores")


Selector = Annotated[str, AfterValidator(_selector), Noun("a selector with $revision")]
KubernetesName = Annotated[str, AfterValidator(_kubernetes_name), Noun("a name of Kubernetes")]
LabelName = Annotated[str, AfterValidator(_label), Noun("a label's name")]


class KserveMode(enum.StrEnum):
    """How KServe deploys the InferenceService."""

    SERVERLESS = "serverless"
    RAW = "raw"


class TimeUnit(enum.StrEnum):
    """What the buckets of a histogram are measured in."""

    SECONDS = "s"
    MILLISECONDS = "ms"


class KserveConfig(Section):
    """An InferenceService whose split this gateway sets."""

    namespace: Annotated[KubernetesName, Doc("The InferenceService's namespace.")]
    name: Annotated[KubernetesName, Doc("The InferenceService's name.")]
    mode: Annotated[
        KserveMode,
        Field(strict=False),
        Doc(
            "`serverless`: `spec.predictor.canaryTrafficPercent` is set. `raw`: `spec.canary[0].trafficPercent` "
            "(Standard mode, KServe 0.20 or newer)."
        ),
    ] = KserveMode.SERVERLESS
    api: Annotated[WebhookUrl, Doc("The Kubernetes API. The default is right inside of a cluster.")] = (
        "https://kubernetes.default.svc"
    )
    ca_file: Annotated[FilePath, Doc("The authority of its certificate.")] = _SERVICE_ACCOUNT / "ca.crt"
    token_file: Annotated[FilePath, Doc("The service account's token; read again for each request.")] = (
        _SERVICE_ACCOUNT / "token"
    )
    interval_s: Annotated[
        Seconds, Doc("How often the InferenceService is read; a change of the weight is applied at once.")
    ] = 10.0
    timeout_s: Annotated[Seconds, Doc("Timeout of one request to the API.")] = 10.0
    settle_s: Annotated[
        float,
        Field(ge=0, le=3600),
        Noun("a number of seconds"),
        Doc("What is counted so soon after a change of the split is no evidence: it takes effect a little later."),
    ] = 5.0


class PrometheusConfig(Section):
    """Where the counts of both versions are read."""

    url: Annotated[WebhookUrl, Doc("Prometheus, or what answers its `/api/v1/query`.")]
    requests: Annotated[
        Selector,
        Doc(
            "The counter of one version's answered requests. `$revision` stands for the version's revision "
            "(serverless) or Deployment (raw)."
        ),
    ]
    status_label: Annotated[
        LabelName | None,
        Doc("The label with an answer's status: `503`, `5xx` or `5`. `null`: there is none, all were answered well."),
    ] = "response_code"
    latency: Annotated[
        Selector | None,
        Doc("The buckets (`..._bucket`) of a classic histogram of one version's latencies. `null`: it is not judged."),
    ] = None
    latency_unit: Annotated[TimeUnit, Field(strict=False), Doc("What its buckets are measured in.")] = TimeUnit.SECONDS
    interval_s: Annotated[Seconds, Doc("How often it is asked: as often as it scrapes.")] = 15.0
    timeout_s: Annotated[Seconds, Doc("Timeout of one query.")] = 10.0
    stale_s: Annotated[
        Seconds, Doc("Without a new sample of both versions for so long there is no verdict: the rollout holds.")
    ] = 60.0
    token_env: Annotated[EnvironmentName | None, Doc("Environment variable with a bearer token for it.")] = None


class ActuatorConfig(Section):
    """A route that is split elsewhere."""

    route: Annotated[
        RouteName, Doc("The route. Its requests do not go through this gateway, which answers those that come 404.")
    ]
    kserve: Annotated[KserveConfig, Doc("The InferenceService that serves it.")]
    prometheus: Annotated[PrometheusConfig, Doc("Where the counts of both versions are read.")]


def actuator_issues(actuators: Iterable[ActuatorConfig], environ: Mapping[str, str]) -> Iterator[Issue]:
    """What is wrong with what the actuators have in the environment."""
    for index, one in enumerate(actuators):
        place = ("actuators", index, "prometheus", "token_env")
        yield from issues_in(place, lambda one=one: prometheus_token(one.prometheus, environ))  # type: ignore[misc]  # mypy cannot infer a lambda with a default


def prometheus_token(prometheus: PrometheusConfig, environ: Mapping[str, str] = os.environ) -> str | None:
    """The token for Prometheus, None without one. Raises BadValue when it cannot be had."""
    return None if prometheus.token_env is None else variable(prometheus.token_env, environ)


def issues_between_actuators(tree: Any) -> Iterator[Issue]:
    """A route that exists, one actuator for each, and nothing to be judged there that Prometheus cannot show."""
    actuators = tree.get("actuators") if isinstance(tree, dict) else None
    names = route_names(tree)
    seen: set[str] = set()
    for index, one in enumerate(actuators if isinstance(actuators, list) else ()):
        route = one.get("route") if isinstance(one, dict) else None
        if not isinstance(route, str) or names is None:
            continue
        here = ("actuators", index, "route")
        if route not in names:
            yield Issue(here, f"there is no route {show(route)}", "name one of `routes`")
            continue
        if route in seen:
            yield Issue(here, f"a second actuator for route {show(route)}", "write one for each route")
        seen.add(route)
        yield from _not_seen_by_prometheus(index, one, next(one for one in tree["routes"] if one["name"] == route))


def _not_seen_by_prometheus(index: int, actuator: dict[str, Any], route: dict[str, Any]) -> Iterator[Issue]:
    if route.get("sticky") is not None:
        problem = "its route is sticky, and counters show no sessions"
        yield Issue(("actuators", index, "route"), problem, "remove `sticky` there")
    plan = route.get("plan")
    if isinstance(plan, dict) and plan.get("mirror") is not None:
        problem = "its route's plan mirrors requests, and none of them comes here"
        yield Issue(("actuators", index, "route"), problem, "remove `plan.mirror` there")
    mirror = route.get("mirror")
    percent = mirror.get("percent") if isinstance(mirror, dict) else None
    if isinstance(percent, (int, float)) and percent > 0:
        problem = "its route mirrors requests, and none of them comes here"
        yield Issue(("actuators", index, "route"), problem, "remove `mirror.percent` there")
    prometheus, analysis = actuator.get("prometheus"), route.get("analysis")
    latency = analysis.get("latency") if isinstance(analysis, dict) else None
    mode = latency.get("mode", "decide") if isinstance(latency, dict) else "decide"
    if isinstance(prometheus, dict) and prometheus.get("latency") is None and mode == "decide":
        problem = "its route's latency decides, and would never be known"
        hint = "name the histogram here, or set `analysis: {latency: {mode: advise}}` of the route"
        yield Issue(("actuators", index, "prometheus", "latency"), problem, hint)
