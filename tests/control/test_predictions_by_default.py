"""What is known of a route's answers, where nobody has asked for predictions: who holds promotion, and what is said."""

from __future__ import annotations

import pytest

from gateway.config.analysis import AnalysisConfig
from gateway.config.predictions import BY_DEFAULT, PREDICTED, PredictionsConfig
from gateway.config.routes import MatchConfig, RouteConfig
from gateway.control.decide.silent_sources import not_compared, reported, unjudged
from gateway.core.predictions.events import Watch, WatchSettings
from gateway.core.types import Unjudged, Why

NONE = Watch(WatchSettings(surely=True)).watched


def route(predictions: PredictionsConfig | None = BY_DEFAULT) -> RouteConfig:
    analysis = AnalysisConfig(predictions=predictions)
    return RouteConfig(name="r", match=MatchConfig(path_prefix="/"), stable="s", canary="c", analysis=analysis)


def whys(of: RouteConfig, sampled: dict[str, int]) -> set[Why]:
    found = unjudged(of, NONE, reported((sampled, {}), frozenset(), 5_000, 60.0))
    return {one.why for one in found.values()}


@pytest.mark.parametrize(
    ("sampled", "why"),
    [
        ({}, Why.WAITS),
        ({"taken": 500, "for_predictions": 500}, Why.LEARNING),
        ({"taken": 500, "for_predictions": 5}, Why.LEARNING),
        ({"taken": 500, "for_predictions": 4}, Why.NEVER),
        ({"taken": 500}, Why.NEVER),
        ({"streamed": 500, "taken": 500}, Why.NEVER),
    ],
)
def test_what_is_on_its_way_holds_and_stray_answers_do_not(sampled: dict[str, int], why: Why) -> None:
    """Answers that were sampled and are not yet read may be bad ones; on a route of GET there are none to wait for."""
    assert whys(route(), sampled) == {why}
    if why is not Why.NEVER:
        assert whys(route(PredictionsConfig()), sampled) == {Why.WAITS}, "asked for: it waits in any case"


def test_why_they_are_not_compared_is_said_where_nobody_asked() -> None:
    silent = {"class_0": Unjudged("no output is a class", Why.NEVER)}
    assert not_compared(route(), silent) == "not compared: no output is a class"
    assert not_compared(route(PredictionsConfig()), silent) == "", "a warning says it"
    assert not_compared(route(), {"low_confidence": Unjudged("no confidence", Why.ABSENT)}) == ""
    assert not_compared(route(None), silent) == ""
    assert "class_0" in PREDICTED
