"""The JSON that comes in: bodies are sections of the configuration's kind, so that both are checked in the same words.

Rules:

1. Unknown keys, values outside their domain, text for numbers and the like are refused, with the place in the body.
2. A plan in a body is the section `plan` of a route. A backend, a route and the whole configuration are checked where
   they are put in force (`configuring`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from gateway.admin.decode import one_line, parse
from gateway.config.backends import ModelConfig
from gateway.config.cross_checks import plan_issues
from gateway.config.errors import BadValue, Issue, listed, show
from gateway.config.explain import issues_of
from gateway.config.plan import PlanConfig
from gateway.config.section import EndpointUrl, Percentage, Section
from gateway.config.shape import Doc
from gateway.core.errors import InvalidValueError

LABELS_MAX = 500


def _printable(text: str) -> str:
    try:
        return one_line("the text", text)
    except InvalidValueError:
        raise BadValue(f"{show(text)} is not printable text on one line", "remove what does not print") from None


Reason = Annotated[
    str, Field(max_length=500), AfterValidator(_printable), Doc("Why, in the operator's words, on one line.")
]


class ApiRequest(Section):
    """What a request asks for."""

    @classmethod
    def issues_between(cls, tree: Any) -> Iterator[Issue]:
        """What several keys must say together."""
        return iter(())


class WeightRequest(ApiRequest):
    """A weight set by hand."""

    canary_percent: Annotated[Percentage, Doc("The canary's share of the requests, in steps of 0.01.")]
    reason: Reason = ""


class VersionRequest(ApiRequest):
    """A model version to roll out, and where it is served."""

    endpoints: Annotated[
        list[EndpointUrl], Field(min_length=1), Doc("Addresses of the version, as in `backends.*.endpoints`.")
    ]
    model: Annotated[ModelConfig, Doc("What they serve.")]


class StartRequest(ApiRequest):
    """A rollout to start."""

    version: Annotated[
        VersionRequest | None,
        Doc(
            "The version to roll out: its backend is configured and becomes the route's canary. `null`: the configured "
            "canary. Needs the scope `admin`."
        ),
    ] = None

    plan: Annotated[PlanConfig | None, Doc("The plan to follow. `null`: the configured one.")] = None
    reason: Reason = ""
    retry: Annotated[bool, Doc("Also of a version that was rolled back.")] = False

    @classmethod
    def issues_between(cls, tree: Any) -> Iterator[Issue]:
        """The plan's. Its steps are not left out: who gives a plan means these, not the default ones."""
        plan = tree.get("plan") if isinstance(tree, dict) else None
        if isinstance(plan, dict) and "steps" not in plan:
            yield Issue(("plan", "steps"), "is missing", "add it, or leave out the plan for the configured one")
        yield from plan_issues(plan, ("plan",))


class ActionRequest(ApiRequest):
    """A rollout to pause, resume, approve or abort."""

    reason: Reason = ""


class PromoteRequest(ApiRequest):
    """A rollout to promote."""

    reason: Reason = ""
    next_step: Annotated[bool, Doc("To its next step only; otherwise all the way.")] = False


class LabelRequest(ApiRequest):
    """What became known of one request after its answer."""

    request_id: Annotated[
        str,
        Field(min_length=1, max_length=200),
        AfterValidator(_printable),
        Doc("The request's X-Request-ID."),
    ]
    name: Annotated[str, Field(min_length=1, max_length=64), Doc("An event of the route that has a `trial`.")]
    value: Annotated[
        Annotated[bool, Field(strict=True)] | Annotated[float, Field(allow_inf_nan=False)],
        Doc("Whether the event happened; of an event with `bounds` the number."),
    ] = True


class LabelsRequest(ApiRequest):
    """Labels of one route that are handed in together."""

    events: Annotated[list[LabelRequest], Field(min_length=1, max_length=LABELS_MAX), Doc("The labels.")]


Body = TypeVar("Body", bound=ApiRequest)


def decode(content: bytes, kind: type[Body]) -> Body:
    """The request in a body. Raises MalformedError, or InvalidValueError with the places of the wrong values."""
    return validated(parse(content), kind)


def check_plan(tree: Any) -> None:
    """Raise InvalidValueError unless the tree is a plan to start a rollout by."""
    validated({"plan": tree}, StartRequest)


def validated(tree: Any, kind: type[Body]) -> Body:
    """The request in the tree of a body. Raises InvalidValueError."""
    issues: list[Issue] = []
    try:
        body = kind.model_validate(tree)
    except ValidationError as error:
        issues = issues_of(error, kind)
    issues += kind.issues_between(tree)
    if issues:
        raise InvalidValueError(listed(issues))
    return body
