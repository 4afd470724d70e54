"""The faults of the run, each with what it needs for itself and the alarms that an operator must see.

What a fault needs for itself is its claim: faults whose claims meet never overlap. One of stable's endpoints is never
harmed, so that a client that asked it directly would lose nothing; everything else may be harmed at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadtests.faults import harm
from loadtests.faults.harm import Act


@dataclass(frozen=True)
class Fault:
    """``what`` is for people; ``seen`` are the alarms (parts of their reasons) that an operator must see, if any."""

    name: str
    what: str
    act: Act
    claims: frozenset[str]
    lasts_s: float = 5.0
    seen: tuple[str, ...] = ()
    # Its alarms stand until the gateway is started anew, or for minutes.
    lingers: bool = False


def _two(name: str, what: str, act: Callable[[int], Act], *seen: str) -> list[Fault]:
    """The same of either endpoint of stable that may be harmed, so that two can be at once."""
    return [Fault(f"{name}_{n}", what, act(n), frozenset((f"stable{n}",)), seen=seen) for n in (0, 1)]


def _answers(behaviour: str) -> Callable[[int], Act]:
    return lambda index: harm.behaviour(index, behaviour)


def _stable_gone(index: int) -> Act:
    return lambda site: harm.gone(site.stable[index])


_CONTROL, _STATE, _WORKER, _FILE, _ADMIN = "control", "state", "worker", "file", "admin"


def _fault(
    name: str, what: str, act: Act, *claims: str, lasts_s: float = 5.0, seen: str = "", lingers: bool = False
) -> Fault:
    return Fault(name, what, act, frozenset(claims), lasts_s, (seen,) if seen else (), lingers)


FAULTS: tuple[Fault, ...] = (
    *_two("hang", "one of three stable endpoints hangs, its probe is well", _answers("hang"), "stable"),
    *_two("reset", "one of three resets connections", _answers("reset"), "stable"),
    *_two("garbage", "one of three answers nonsense", _answers("garbage"), "stable"),
    *_two("slow", "one of three is slow (0.2 to 0.6 s)", _answers("slow")),
    *_two("cut", "one of three breaks off its answers", _answers("cut"), "stable"),
    *_two(
        "early_413", "one of three answers uploads with 413 before they are whole, and closes", _answers("early_413")
    ),
    *_two("gone", "one of three refuses connections", _stable_gone, "stable"),
    _fault("probe_slow", "every probe takes 1.2 s (its time-out is 1 s)", harm.probes("slow"), "probes"),
    _fault("probe_404", "every probe gets 404", harm.probes("not_found"), "probes", seen="404"),
    _fault("probe_hang", "every probe hangs", harm.probes("hang"), "probes"),
    _fault("canary_bad", "the canary fails, hangs, resets or answers nonsense", harm.canary_bad, "canary"),
    _fault("canary_gone", "the canary is gone", lambda site: harm.gone(site.canary), "canary", seen="canary"),
    _fault("control_stop", "control is stopped for 5 s", harm.stopped("control"), _CONTROL),
    _fault("control_kill", "control is killed", harm.killed_control, _CONTROL),
    _fault(
        "control_hang",
        "control is stopped for good",
        harm.hung_control,
        _CONTROL,
        lasts_s=17.0,
        seen="control",
        lingers=True,
    ),
    _fault("scrape", "50 clients scrape /metrics without a pause", harm.busy(50, harm.scrape), _ADMIN),
    _fault("silent_admin", "400 silent admin connections, 256 descriptors", harm.silent_admins, _ADMIN, _CONTROL),
    _fault(
        "large_config", "large configurations are checked over the API", harm.busy(2, harm.large_configuration), _ADMIN
    ),
    _fault(
        "not_let_in",
        "20 clients of the admin API that are not let in",
        harm.busy(20, harm.foreign),
        _ADMIN,
        seen="were refused within a minute",
    ),
    _fault(
        "state_away",
        "the state directory is gone",
        harm.state_away,
        _STATE,
        _CONTROL,
        seen="decisions cannot be stored",
    ),
    _fault(
        "journal_emptied",
        "the journal is emptied, then control is killed",
        harm.journal_emptied,
        _STATE,
        _CONTROL,
        lasts_s=8.0,
        seen="journal",
        lingers=True,
    ),
    _fault(
        "stored_config",
        "the state file is damaged, then control is killed",
        harm.stored_configuration_broken,
        _STATE,
        _CONTROL,
        _FILE,
        lasts_s=8.0,
        seen="copy of the configuration",
    ),
    _fault("worker_stop", "a worker is stopped for 1 s", harm.stopped("worker"), _WORKER, lasts_s=1.0),
    _fault("worker_retire", "a worker gets SIGTERM", harm.retired_worker, _WORKER, lasts_s=2.0),
    _fault("worker_kill", "a worker is killed", harm.killed_worker, _WORKER, lasts_s=2.0),
    _fault(
        "worker_hang",
        "a worker is stopped for good",
        harm.hung_worker,
        _WORKER,
        lasts_s=12.0,
        seen="worker",
        lingers=True,
    ),
    _fault("stuck", "control is stopped, and a worker is killed", harm.worker_born_without_control, _CONTROL, _WORKER),
    _fault("reload", "SIGHUP with other limits: every worker is replaced", harm.reload, _WORKER, _FILE, _CONTROL),
    _fault("bad_file", "SIGHUP with a broken file", harm.bad_file, _FILE, _CONTROL, lasts_s=3.0, seen="configuration"),
    _fault("weights", "the canary's weight is changed", harm.weights, "weights", lasts_s=1.0),
    _fault("slow_uploads", "250 slow uploads from one address", harm.slow_uploads, "slow", lasts_s=10.0),
)
