"""The scenarios: what is wrong with the canary, in which way the demo brings it about, and what must come of it.

A scenario is a value. The canary is one of the bundled models behind a model server that fails on purpose (`faults`,
see gateway.serving.faults) or that is killed under way (`killed_after_s`, counted from its first request).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

STABLE_MODEL = "digits-logreg"
STABLE_TEXT_MODEL = "text-bigram"
# Kinds of failures, in the client's words, that come after the answer has begun.
GAVE_UP = "gave up"
ERROR_EVENT = "error event"
EMPTY = "empty answer"


@dataclass(frozen=True)
class Scenario:
    """One way in which a rollout can go.

    ``streams`` is the share of requests that ask for an event stream, ``patience_s`` how long users wait when nothing
    comes (0: as long as the client does). ``begun`` are the kinds of failures that users see because the answer had
    begun when they came: no rescue can prevent those.

    ``llm``: both versions are text models that stream (`gateway demo --llm`).

    ``ends`` are the phases it may end in. ``cause`` is the metric that must be named for a rollback; ``also`` may be
    named beside it (who never answers is slow, too). ``mirror``: the rollout begins with a mirror step.
    """

    name: str
    title: str
    description: str
    canary_model: str
    ends: tuple[str, ...]
    cause: str | None = None
    also: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()
    killed_after_s: tuple[float, float] | None = None
    streams: float = 0.0
    patience_s: float = 0.0
    begun: frozenset[str] = frozenset()
    mirror: bool = False
    llm: bool = False


_ROLLED_BACK = ("ROLLED_BACK",)
_CLASSES = frozenset((*(f"class_{digit}" for digit in range(10)), "class_other"))
# What a stream that breaks off or stops may be named for, too.
_STREAMED = frozenset({"gap", "latency", "time_per_event"})
_ALL = (
    Scenario(
        "good",
        "a better model",
        "The new model is better. It should be proven good enough and promoted.",
        "digits-svm",
        ends=("PROMOTED",),
    ),
    Scenario(
        "errors",
        "a model that fails",
        "The new version fails every fifth request. No user should notice.",
        "digits-svm",
        ends=_ROLLED_BACK,
        cause="errors",
        faults=("error-rate=0.2",),
    ),
    Scenario(
        "slow",
        "a slow model",
        "The new version is right, but 80 ms late. It should be rolled back for that.",
        "digits-svm",
        ends=_ROLLED_BACK,
        cause="latency",
        faults=("latency-ms=80",),
    ),
    Scenario(
        "hang",
        "a model that hangs",
        "The new version accepts requests and never answers. Stable answers for it.",
        "digits-svm",
        ends=_ROLLED_BACK,
        cause="errors",
        also=frozenset({"latency"}),
        faults=("hang",),
    ),
    Scenario(
        "crash",
        "a model that dies",
        "The new version's process will be killed in the middle of the rollout.",
        "digits-svm",
        ends=_ROLLED_BACK,
        cause="errors",
        killed_after_s=(3.0, 12.0),
    ),
    Scenario(
        "wrong",
        "a model that is wrong",
        "The new version scales its input twice: every answer is valid, fast, and a 4. It should be rolled back.",
        "digits-misscaled",
        ends=_ROLLED_BACK,
        cause="class_4",
        also=_CLASSES,
    ),
    Scenario(
        "notfound",
        "a wrong model name",
        "The new version answers 404: its model has another name. No user should notice.",
        "digits-svm",
        ends=_ROLLED_BACK,
        cause="not_found",
        faults=("wrong-name",),
    ),
    Scenario(
        "login",
        "a login page",
        "The new version sends everybody to a login page (302). No user should notice.",
        "digits-svm",
        ends=_ROLLED_BACK,
        cause="redirects",
        faults=("login",),
    ),
    Scenario(
        "stream-error",
        "errors inside of streams",
        "The new version's event streams are 200 and hold an error. Three in ten users stream.",
        "digits-svm",
        ends=_ROLLED_BACK,
        cause="model_errors",
        also=_STREAMED,
        faults=("stream-error",),
        streams=0.3,
        begun=frozenset({ERROR_EVENT}),
    ),
    Scenario(
        "impatient",
        "users that give up",
        "Three in ten answers of the new version begin and stop. Users leave after 2 s.",
        "digits-svm",
        ends=_ROLLED_BACK,
        cause="abandoned",
        also=_STREAMED,
        faults=("stall=0.3",),
        streams=0.3,
        patience_s=2.0,
        begun=frozenset({GAVE_UP}),
    ),
    Scenario(
        "flat",
        "an identical model",
        "The new version is the old one again. There must be no false alarm.",
        STABLE_MODEL,
        ends=("PROMOTED", "PAUSED"),
    ),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
"""Those with classifiers."""

# Streams that say less than they should are also shorter, and end otherwise.
_OF_TEXTS = frozenset({"model_errors", "answer_length", "json_text", "finish_stop", "finish_length", "empty_answer"})
_OF_LLM = (
    Scenario(
        "good",
        "a model that looks further back",
        "The new text model looks at two words instead of one. It should be promoted.",
        "text-trigram",
        ends=("PROMOTED",),
        llm=True,
    ),
    Scenario(
        "slow-tokens",
        "tokens that come slowly",
        "The new version answers at once, and then writes five times slower. It should be rolled back for that.",
        "text-trigram",
        ends=_ROLLED_BACK,
        cause="time_per_event",
        also=_STREAMED,
        faults=("token-ms=30",),
        llm=True,
    ),
    Scenario(
        "mid-stream-errors",
        "errors in the middle of streams",
        "A third of the new version's streams hold an error event, half of them with nothing before it.",
        "text-trigram",
        ends=_ROLLED_BACK,
        cause="model_errors",
        also=_STREAMED | _OF_TEXTS,
        faults=("stream-error=0.33",),
        begun=frozenset({ERROR_EVENT}),
        llm=True,
    ),
    Scenario(
        "empty",
        "answers without content",
        "A third of the new version's answers come to their end without a word: 200, whole, and empty.",
        "text-trigram",
        ends=_ROLLED_BACK,
        cause="empty_answer",
        also=_STREAMED | _OF_TEXTS | {"first_token"},
        faults=("empty=0.33",),
        begun=frozenset({EMPTY}),
        llm=True,
    ),
)
LLM_SCENARIOS = {scenario.name: scenario for scenario in _OF_LLM}
"""Those with text models, of `gateway demo --llm`."""


def mirrored(scenario: Scenario) -> Scenario:
    """The scenario in a rollout that begins with a mirror step: what answers wrongly differs from stable."""
    if scenario.cause not in _CLASSES:
        return replace(scenario, mirror=True)
    return replace(scenario, cause="disagreement", also=frozenset(), mirror=True)


def as_expected(scenario: Scenario, phase: str, metrics: tuple[str, ...]) -> bool:
    """Whether a rollout that ended so, for these metrics, went as the scenario promises."""
    if phase not in scenario.ends:
        return False
    if scenario.cause is None:
        return True
    return scenario.cause in metrics and set(metrics) <= {scenario.cause, *scenario.also}


def preventable(scenario: Scenario, failures: Mapping[str, int]) -> int:
    """How many of the failures that users saw a rescue could have prevented."""
    return sum(count for kind, count in failures.items() if kind not in scenario.begun)
