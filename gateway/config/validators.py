"""Data checks: the section ``validators``, whose programs judge windows of live traffic, and how a route uses one.

A validator is a program of the operator's own environment, so it is named in the file alone, as hooks and gates are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from gateway.config.errors import Issue, show
from gateway.config.hooks import Argument
from gateway.config.predictions import ModeKey
from gateway.config.section import RouteName, Seconds, Section
from gateway.config.shape import Doc, Noun
from gateway.core.analysis.spec import EventSpec, Mode, Worse
from gateway.core.predictions.settings import DATA_ROWS, DATA_WINDOWS

VALIDATORS_MAX = 20
# Parts of alpha_rollback, as of what else a section of its own asks for.
_SHARE = 0.1
_WINDOWS_MARGIN, _ROWS_MARGIN = 0.3, 0.02


class ValidatorConfig(Section):
    """A program that judges windows of requests and answers, such as a suite of Great Expectations."""

    name: Annotated[RouteName, Doc("The name that `routes[].analysis.data_checks.validator` uses. Unique.")]
    command: Annotated[
        Annotated[list[Argument], Field(min_length=1, max_length=100)],
        Doc(
            "Program and arguments, run without a shell for as long as there are windows (docs/pipelines.md). Relative "
            "paths are relative to where the gateway was started."
        ),
    ]
    timeout_s: Annotated[
        Seconds, Doc("A window that is not judged by then is lost, and the program is started again.")
    ] = 120.0


class DataChecksConfig(Section):
    """Windows of sampled requests and answers of each version, judged by a validator."""

    validator: Annotated[RouteName, Doc("The name of one of `validators`.")]
    mode: Annotated[
        ModeKey, Doc("`decide`, `advise` or `off`: what `data_rows` and `data_windows` are to the verdict.")
    ] = Mode.DECIDE
    window_rows: Annotated[
        int,
        Field(ge=1, le=10_000),
        Noun("a number of requests"),
        Doc("So many requests of one version, with their answers, are one window."),
    ] = 25
    tolerance: Annotated[
        float,
        Field(ge=0, le=0.5),
        Noun("a share"),
        Doc("Rolled back on proof that a larger part more of the canary's windows fail, or of its rows."),
    ] = 0.0

    def events(self) -> tuple[EventSpec, ...]:
        """The metrics that it adds."""
        margins = {DATA_WINDOWS: _WINDOWS_MARGIN, DATA_ROWS: _ROWS_MARGIN}
        return tuple(
            EventSpec(
                name,
                self.mode,
                Worse.HIGHER,
                tolerance_delta=self.tolerance,
                margin_delta=self.tolerance + margin,
                share=_SHARE,
            )
            for name, margin in margins.items()
        )


def issues_between_validators(tree: Any) -> Iterator[Issue]:
    """Names are unique, and a route names one of them."""
    sections = tree.get("validators") if isinstance(tree, dict) else None
    names: list[Any] = []
    for index, one in enumerate(sections if isinstance(sections, list) else ()):
        name = one.get("name") if isinstance(one, dict) else None
        if name in names:
            yield Issue(("validators", index, "name"), f"a second validator {show(name)}", "give it another name")
        names.append(name)
    routes = tree.get("routes") if isinstance(tree, dict) else None
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        analysis = route.get("analysis") if isinstance(route, dict) else None
        checks = analysis.get("data_checks") if isinstance(analysis, dict) else None
        wanted = checks.get("validator") if isinstance(checks, dict) else None
        if isinstance(wanted, str) and wanted not in names:
            here = ("routes", index, "analysis", "data_checks", "validator")
            yield Issue(here, f"there is no validator {show(wanted)}", "name one of `validators`")
