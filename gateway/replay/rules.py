"""The rules that can be set beside the gateway's, by name, and their parameters as a command line gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.core.errors import InvalidValueError
from gateway.replay import argo, flagger, kayenta
from gateway.replay.intervals import RecordedInterval, RuleDecision


class Rule(NamedTuple):
    """A rule's parameters with their documented defaults, and what it does with them."""

    params: type[msgspec.Struct]
    decide: Callable[[Iterable[RecordedInterval], Any], RuleDecision]


RULES: Mapping[str, Rule] = {
    "flagger": Rule(flagger.FlaggerParams, flagger.decide),
    "argo": Rule(argo.ArgoParams, argo.decide),
    "kayenta": Rule(kayenta.KayentaParams, kayenta.decide),
}


def names(text: str) -> list[str]:
    """The rules of a list such as ``flagger,argo``, or ``none``. Raises InvalidValueError."""
    chosen = [] if text == "none" else [name.strip() for name in text.split(",")]
    for name in chosen:
        if name not in RULES:
            raise InvalidValueError(f"{name!r} is not a rule; the rules are {', '.join(RULES)}, or none")
    return list(dict.fromkeys(chosen))


def parameters(settings: Iterable[str]) -> dict[str, msgspec.Struct]:
    """Every rule's parameters: its defaults, changed by settings ``RULE.NAME=VALUE``. Raises InvalidValueError."""
    given: dict[str, dict[str, str]] = {name: {} for name in RULES}
    for setting in settings:
        place, equals, value = setting.partition("=")
        rule, dot, name = place.partition(".")
        if not (equals and dot and rule in RULES):
            raise InvalidValueError(f"{setting!r} is not a setting; write one such as flagger.threshold=5")
        known = RULES[rule].params.__struct_fields__
        if name not in known:
            raise InvalidValueError(f"{rule} has no parameter {name!r}; it has {', '.join(known)}")
        given[rule][name] = value
    try:
        return {name: msgspec.convert(given[name], rule.params, strict=False) for name, rule in RULES.items()}
    except msgspec.ValidationError as error:
        raise InvalidValueError(f"a rule's parameter cannot be used: {error}") from None
