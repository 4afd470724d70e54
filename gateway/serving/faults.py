"""Faults on demand: what makes the model server a test double of itself. Pure but for its counter and its generator.

Rules:

1. Faults concern inference only; health, readiness and metadata stay truthful.
2. Every request draws once for each fault that has a share, in the order of arrival and of the table, so that one seed
   gives one sequence of fates whatever the shares are.
3. Of several faults that strike one request the gravest wins, in the order of `Fate`. Latency comes before all of them
   but crash.
4. `stream-error` strikes event streams alone; any other answer is served. `empty` and `token-ms` are the text model's.

| key                  | value            | meaning                                                               |
|----------------------|------------------|-----------------------------------------------------------------------|
| hang                 | 0..1, default 1  | share of requests that are accepted and never answered                |
| error-rate           | 0..1             | share of requests answered with status 500                            |
| wrong-name           | 0..1, default 1  | share of requests answered with 404, as if the model had another name |
| login                | 0..1, default 1  | share of requests answered with 302 to a login page                   |
| stall                | 0..1, default 1  | share of answers that begin and never go on                           |
| stream-error         | 0..1, default 1  | share of event streams with an error, half of them with nothing else  |
| empty                | 0..1, default 1  | share of a text model's answers that end without having said anything |
| token-ms             | 0 or more        | a text model waits so long before every token but the first           |
| latency-ms           | 0 or more        | every request waits so long before it is worked on                    |
| crash-after-s        | 0 or more        | the process dies so long after the fault was set (or the start)       |
| crash-after-requests | 1 or more        | the process dies on that request, unanswered                          |
"""

from __future__ import annotations

import dataclasses
import enum
import math
import random
from collections.abc import Iterable, Mapping

from gateway.serving.errors import FaultError

CRASH_STATUS = 70
"""Exit status of an injected crash, different from that of a real one."""


class Fate(enum.Enum):
    """What becomes of one request, the gravest first."""

    CRASH = "crash"
    HANG = "hang"
    ERROR = "error"
    WRONG_NAME = "wrong name"
    LOGIN = "login"
    STALL = "stall"
    ERROR_EVENT = "an error event and nothing else"
    STREAM_ERROR = "an error event in the middle"
    EMPTY = "an answer without content"
    SERVE = "serve"


# The faults that have a share, in the order of their draws.
_SHARES = {
    "hang": Fate.HANG,
    "error_rate": Fate.ERROR,
    "wrong_name": Fate.WRONG_NAME,
    "login": Fate.LOGIN,
    "stall": Fate.STALL,
    "stream_error": Fate.STREAM_ERROR,
    "empty": Fate.EMPTY,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InjectedFaults:
    """Which faults are on; the defaults mean none. FaultError for values outside the domains above."""

    error_rate: float = 0.0
    latency_ms: float = 0.0
    hang: float = 0.0
    wrong_name: float = 0.0
    login: float = 0.0
    stall: float = 0.0
    stream_error: float = 0.0
    empty: float = 0.0
    token_ms: float = 0.0
    crash_after_s: float | None = None
    crash_after_requests: int | None = None

    def __post_init__(self) -> None:
        for field in _SHARES:
            _check_number(_key(field), getattr(self, field), high=1)
        _check_number("latency-ms", self.latency_ms)
        _check_number("token-ms", self.token_ms)
        if self.crash_after_s is not None:
            _check_number("crash-after-s", self.crash_after_s)
        requests = self.crash_after_requests
        if requests is not None and (type(requests) is not int or requests < 1):
            raise FaultError(f"fault crash-after-requests must be a whole number from 1, not {requests!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> InjectedFaults:
        """Build from keys as in the table; `{"hang": true}` and `{"hang": false}` mean all and none."""
        unknown = values.keys() - KEYS
        if unknown:
            raise FaultError(_unknown(*sorted(unknown)))
        fields = {
            _field(key): float(value) if key in _SWITCHES and isinstance(value, bool) else value
            for key, value in values.items()
        }
        return cls(**fields)  # type: ignore[arg-type]  # __post_init__ checks what came from outside

    @classmethod
    def from_options(cls, texts: Iterable[str]) -> InjectedFaults:
        """Build from command line texts such as `error-rate=0.2` and `hang`."""
        values: dict[str, object] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            if key in values:
                raise FaultError(f"fault {key} is given twice; give it once")
            if key not in KEYS:
                raise FaultError(_unknown(key))
            values[key] = _number(key, value) if equals or key not in _SWITCHES else 1.0
        return cls.from_mapping(values)

    def to_mapping(self) -> dict[str, float | int | None]:
        """The faults by the keys of the table, all of them."""
        return {_key(field): value for field, value in dataclasses.asdict(self).items()}


class FaultSource:
    """Deals fates to requests: `faults` as they stand, a counter since they were set, one seeded generator."""

    def __init__(self, faults: InjectedFaults, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # a test double's dice, no secret
        self.set(faults)

    def set(self, faults: InjectedFaults) -> None:
        """Switch to other faults; the count towards `crash-after-requests` starts anew."""
        self.faults = faults
        self.requests = 0

    def draw(self) -> Fate:
        """The fate of the next request."""
        self.requests += 1
        draws = [self._random.random() for _ in _SHARES]
        if self.faults.crash_after_requests is not None and self.requests >= self.faults.crash_after_requests:
            return Fate.CRASH
        for (field, fate), drawn in zip(_SHARES.items(), draws, strict=True):
            share: float = getattr(self.faults, field)
            if drawn < share:
                return Fate.ERROR_EVENT if fate is Fate.STREAM_ERROR and 2 * drawn < share else fate
        return Fate.SERVE


def _unknown(*keys: str) -> str:
    return f"unknown fault {', '.join(keys)}; there are: {', '.join(KEYS)}"


def _key(field: str) -> str:
    return field.replace("_", "-")


def _field(key: str) -> str:
    return key.replace("-", "_")


KEYS = tuple(_key(field.name) for field in dataclasses.fields(InjectedFaults))
# Faults that strike every request when no share is given.
_SWITCHES = frozenset(_key(field) for field in _SHARES) - {"error-rate"}


def _check_number(key: str, value: object, high: float = math.inf) -> None:
    domain = f"from 0 to {high:g}" if high < math.inf else "from 0"
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or not 0 <= value <= high
    ):
        raise FaultError(f"fault {key} must be a number {domain}, not {value!r}")


def _number(key: str, text: str) -> float | int:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    raise FaultError(f"fault {key} needs a number, as in {key}=1, not {text!r}")
