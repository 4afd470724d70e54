"""The section ``routes``: which requests, to which stable and canary backend, within which deadlines and budgets."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import Field, model_validator

from gateway.config.analysis import AnalysisConfig
from gateway.config.features import FeaturesConfig
from gateway.config.mirror import MirrorConfig
from gateway.config.plan import PlanConfig
from gateway.config.predictions import ProtocolKey
from gateway.config.section import (
    CookieName,
    CountOrNone,
    HeaderName,
    PathPrefix,
    Percentage,
    RouteHost,
    RouteName,
    Seconds,
    Section,
)
from gateway.config.shape import Doc, Noun
from gateway.config.traffic import LLM_TIMEOUTS, FailedStatus, OnHalfClose, Protocol, TimeoutsProfile
from gateway.core.objectives import Objectives
from gateway.core.predictions.protocols.adapter import ProtocolName
from gateway.core.traffic.table import Hold, Rescue, Retry, Route, Sticky, Timeouts
from gateway.core.types import weight_bp_from_percent

_GIB = 1 << 30
_TIMEOUTS = Timeouts()
_RESCUE = Rescue()
_RETRY = Retry()
_ROUTE = Route(name="", path_prefix="/", stable="")
_SLO = Objectives()

ObjectivePercent = Annotated[float, Field(ge=1, le=99.999), Noun("a percentage")]
ObjectiveMilliseconds = Annotated[float, Field(ge=0.001, le=10_000_000), Noun("a number of milliseconds")]


class MatchConfig(Section):
    """Which requests a route takes."""

    path_prefix: Annotated[
        PathPrefix,
        Doc(
            "Whole segments: `/v2/models/a` takes `/v2/models/a/infer` and `/v2/models/a:predict`, not "
            "`/v2/models/ab`. Written decoded, without query and dot segments."
        ),
    ]
    hosts: Annotated[
        list[RouteHost],
        Doc(
            "Hosts, without port; none means every host. The dot of an absolute name (`a.example.`) makes no "
            "difference."
        ),
    ] = []


class StickyConfig(Section):
    """Where a request's sticky key is found: exactly one of the two."""

    core = Sticky

    header: Annotated[HeaderName | None, Doc("Header that holds the key.")] = None
    cookie: Annotated[CookieName | None, Doc("Cookie that holds the key.")] = None


class TimeoutsConfig(Section):
    """The deadlines of an exchange."""

    core = Timeouts

    profile: Annotated[
        TimeoutsProfile,
        Field(strict=False),
        Doc(
            "Which defaults the other timeouts have. `llm` suits language models: 2 s to connect, 120 s to the first "
            "byte, 60 s between two pieces, 1800 s in all. A key that is given wins."
        ),
    ] = TimeoutsProfile.STANDARD
    connect_s: Annotated[Seconds, Doc("Maximum time to connect to an endpoint.")] = _TIMEOUTS.connect_s
    first_byte_s: Annotated[
        Seconds, Doc("Maximum time from sending the request to the response head, for each try.")
    ] = _TIMEOUTS.first_byte_s
    idle_s: Annotated[Seconds, Doc("Maximum pause between two pieces of a body, in either direction.")] = (
        _TIMEOUTS.idle_s
    )
    total_s: Annotated[Seconds, Doc("Maximum time of the whole exchange.")] = _TIMEOUTS.total_s
    try_s: Annotated[
        Seconds | None,
        Doc(
            "Maximum time of each try, from sending to the last byte of its response. `null`: streams may go on, "
            "within `idle_s` and `total_s`."
        ),
    ] = _TIMEOUTS.try_s
    tunnel_idle_s: Annotated[
        Seconds,
        Doc(
            "How long nothing may move in a tunnel (after a protocol upgrade) until it is closed. The other deadlines "
            "end with the upgrade."
        ),
    ] = _TIMEOUTS.tunnel_idle_s

    @model_validator(mode="before")
    @classmethod
    def _of_the_profile(cls, given: Any) -> Any:
        """Where the profile is another, its values are the defaults."""
        if isinstance(given, dict) and given.get("profile") == TimeoutsProfile.LLM:
            return msgspec.structs.asdict(LLM_TIMEOUTS) | given
        return given


class RescueConfig(Section):
    """Whether and how much stable answers for a failing canary."""

    core = Rescue

    replayable: Annotated[
        bool,
        Doc(
            "Sending a request twice does no harm, as with inference. `false`: one that was sent is never tried "
            "again, neither as a rescue nor as a retry."
        ),
    ] = _RESCUE.replayable
    body_bytes_max: Annotated[
        int,
        Field(ge=0, le=_GIB),
        Noun("a number of bytes"),
        Doc("How much of a request's body is kept in memory, so that it can be sent again."),
    ] = _RESCUE.body_bytes_max
    file_bytes_max: Annotated[
        int,
        Field(ge=0, le=1 << 40),
        Noun("a number of bytes"),
        Doc(
            "How much more is kept in a temporary file. Larger requests, and those for which `limits` have no room, "
            "cannot be rescued (`gateway_request_bodies_not_kept_total`)."
        ),
    ] = _RESCUE.file_bytes_max
    budget_percent: Annotated[
        float,
        Field(ge=0, le=100),
        Noun("a percentage"),
        Doc(
            "Rescues in percent of the route's requests, for each worker, in the long run: every request on the route "
            "adds so much to the budget. At 100 every request can be rescued, at 0 none beyond the burst."
        ),
    ] = _RESCUE.budget_percent
    budget_burst: Annotated[
        CountOrNone,
        Doc(
            "Rescues saved up for a burst, for each worker; the budget begins full. It covers the time until a dead "
            "canary is rolled back."
        ),
    ] = _RESCUE.budget_burst
    statuses: Annotated[list[FailedStatus], Doc("Statuses of the canary that are answered by stable instead.")] = list(
        _RESCUE.statuses
    )
    unlike_stable: Annotated[
        bool,
        Doc(
            "Also rescue every other failing response (4xx, 3xx, 204, an empty 200), that the canary lately gives more "
            "than twice as often as stable does, by outcome class. So a canary that answers 404, or a redirect to a "
            "login page, to everything costs users nothing, and what both versions answer reaches clients as before. "
            "It spends no more than half of the budget. Statuses in `analysis.exempt_statuses` are never rescued."
        ),
    ] = _RESCUE.unlike_stable
    hold: Annotated[
        Hold,
        Field(strict=False),
        Doc(
            "`first_token`: an event stream of the canary's goes to the client from its first content on, so that "
            "stable can answer in place of one that fails before. At most 64 KiB and 5 s are held back. `off`: from "
            "its first byte on."
        ),
    ] = _RESCUE.hold


class RetryConfig(Section):
    """How much may be tried again on another endpoint of the same backend."""

    core = Retry

    budget_percent: Annotated[
        float,
        Field(ge=0, le=100),
        Noun("a percentage"),
        Doc("Retries in percent of the route's requests, for each worker, in the long run."),
    ] = _RETRY.budget_percent
    budget_burst: Annotated[
        CountOrNone,
        Doc(
            "Retries saved up for a burst, for each worker; the budget begins full, so that sparse traffic has one. 0 "
            "together with `budget_percent: 0` turns retries off."
        ),
    ] = _RETRY.budget_burst
    statuses: Annotated[
        list[FailedStatus],
        Doc("Statuses that are retried, such as `[502, 503]`. None by default."),
    ] = list(_RETRY.statuses)


class SloConfig(Section):
    """What a route promises its users."""

    core = Objectives

    availability_percent: Annotated[
        ObjectivePercent, Doc("Share of answers that are not 5xx. 100 would leave no error budget.")
    ] = _SLO.availability_percent
    latency_ms: Annotated[
        ObjectiveMilliseconds | None,
        Doc("Time to the first byte of an answer that `latency_percent` of attempts keep. `null`: no such objective."),
    ] = _SLO.latency_ms
    latency_percent: Annotated[ObjectivePercent, Doc("See `latency_ms`.")] = _SLO.latency_percent


class RouteConfig(Section):
    """Which requests, to which stable and canary backend, judged how."""

    core = Route

    def to_core(self) -> dict[str, Any]:
        """What the router matches by stands in the route itself; percent are basis points."""
        return {
            "path_prefix": self.match.path_prefix,
            "hosts": self.match.hosts,
            "stable": self.stable or "",
            "weight_bp": weight_bp_from_percent(self.canary_percent),
            "forced_header": self.forced_variant_header,
            "streams_requests": self.stream_requests,
            "exempt_statuses": sorted(self.analysis.exempt_statuses),
            "features": None,  # they need the stores, which are not the route's (build.py)
        }

    name: Annotated[
        RouteName,
        Doc(
            "1 to 63 characters; the route's name in the API, in metrics and in the journal. It is also the salt of "
            "sticky routing."
        ),
    ]
    match: Annotated[MatchConfig, Doc("Which requests the route takes; no two routes may take the same.")]
    stable: Annotated[
        Annotated[str, Noun("a backend's name")] | None,
        Doc(
            "The backend that serves by default and that the canary is compared with. `null`: nothing is deployed "
            "here yet, requests get 503 until a rollout has promoted the canary; see docs/rollouts.md."
        ),
    ] = None
    canary: Annotated[
        Annotated[str, Noun("a backend's name")] | None,
        Doc("The backend under trial; not the stable one. `null`: all requests go to stable."),
    ] = None
    canary_percent: Annotated[
        Percentage,
        Doc(
            "The canary's share while no rollout has been journaled, in steps of 0.01. Afterwards the journal's "
            "weight holds, also across restarts."
        ),
    ] = 0.0
    forced_variant_header: Annotated[
        HeaderName | None,
        Doc(
            "Header in which clients may name the variant, `stable` or `canary`. Such requests are left out of the "
            "statistics. `null`: no client may. Not one of the protocol's own headers."
        ),
    ] = None
    sticky: Annotated[
        StickyConfig | None,
        Doc(
            "The key that keeps a user on one variant: set exactly one of the two. `null`: every request is "
            "assigned independently, which is best for the statistics."
        ),
    ] = None
    upgrades: Annotated[
        list[Protocol],
        Doc(
            "Protocols that a client may switch to. Any other is ignored, and the request is "
            "answered as an ordinary one."
        ),
    ] = list(_ROUTE.upgrades)
    protocol: Annotated[
        ProtocolKey,
        Doc(
            "What the backends speak, so that their answers can be read: `auto` (by path and body), `oip` (Open "
            "Inference Protocol v2, with Triton's extensions), `kserve_v1` (also TensorFlow Serving), `mlflow`, "
            "`openai` (chat completions, completions, embeddings, responses), `triton_generate` (also TGI and "
            "Ollama) or `json` (JSON of your own; places are named in `analysis.predictions`). See "
            "docs/predictions.md."
        ),
    ] = ProtocolName.AUTO
    on_half_close: Annotated[
        OnHalfClose,
        Field(strict=False),
        Doc(
            "What a client means that ends its sending side (a FIN). `auto`: with its request, within 0.25 s, that it "
            "still wants its answer; later, that it has left (499), because that is how closing a connection looks. "
            "`serve`: always that it still wants its answer. `abort`: always that it has left."
        ),
    ] = OnHalfClose.AUTO
    stream_requests: Annotated[
        bool,
        Doc(
            "Pass a request on as it comes, from its head on, for dialogues in which the backend answers before the "
            "request is whole. `false`: when its body is whole, or 64 KiB of it have come at 64 KiB/s at least, so "
            "that slow clients occupy no backend."
        ),
    ] = _ROUTE.streams_requests
    timeouts: Annotated[TimeoutsConfig, Doc("Deadlines of a request.")] = TimeoutsConfig()
    rescue: Annotated[RescueConfig, Doc("Whether and how much stable answers for a failing canary.")] = RescueConfig()
    retry: Annotated[
        RetryConfig,
        Doc(
            "What is tried again on another endpoint of the same backend, before any byte of an answer has reached "
            "the client."
        ),
    ] = RetryConfig()
    mirror: Annotated[
        MirrorConfig,
        Doc("Copies of stable's requests for the canary, whose answers no client gets (docs/mirroring.md)."),
    ] = MirrorConfig()
    analysis: Annotated[
        AnalysisConfig, Doc("What a verdict promises and looks at; docs/statistics.md explains the tests.")
    ] = AnalysisConfig()
    features: Annotated[
        FeaturesConfig | None,
        Doc("Features of a store, put into each request before a variant is chosen; docs/feast.md. `null`: none."),
    ] = None
    slo: Annotated[
        SloConfig,
        Doc(
            "Service level objectives of the route: the error budgets of `gateway_slo_*`. They alert people and decide "
            "nothing; see docs/metrics.md."
        ),
    ] = SloConfig()
    plan: Annotated[PlanConfig, Doc("The steps of a rollout, and what may hold it, end it or roll it back.")] = (
        PlanConfig()
    )
