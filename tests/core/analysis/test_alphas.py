"""An error probability outside (0, 1) is a typed error at every place where one can be given."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.cli import main
from gateway.config.errors import ConfigError
from gateway.config.load import load
from gateway.core.analysis import AnalysisSpec, AnalysisState, Evidence, Verdict, fresh_state, judge
from gateway.core.analysis.betting.eprocess import NOT_WORSE, Rates
from gateway.core.analysis.show import intervals
from gateway.core.analysis.sizing.limit import requests_at_limit
from gateway.core.errors import InvalidValueError

BARE = [0.0, 1.0, -0.01, 1.5, math.nan, math.inf, -math.inf]
NO_NUMBERS: list[Any] = ["0.01", None, 10**400]
ROOT = Path(__file__).parents[3]
RECORDING = ROOT / "docs" / "examples" / "sparse-errors.csv"


@pytest.mark.parametrize("name", ["alpha_rollback", "alpha_promote", "alpha_sample_ratio"])
@pytest.mark.parametrize("alpha", [*BARE, *NO_NUMBERS], ids=lambda alpha: repr(alpha)[:12])
def test_no_spec_is_made_of_one(name: str, alpha: Any) -> None:
    if name == "alpha_sample_ratio" and alpha == 0.0:
        assert AnalysisSpec(alpha_sample_ratio=0.0).alpha_sample_ratio == 0.0  # the check is off
        return
    with pytest.raises(InvalidValueError, match=name):
        AnalysisSpec(**{name: alpha})


@pytest.mark.parametrize("alpha", BARE)
@pytest.mark.parametrize(
    "ask",
    [
        lambda alpha: requests_at_limit(Rates(0.01, 0.02), NOT_WORSE, 0.1, alpha),
        lambda alpha: intervals.rate_interval(1, 10, alpha),
        lambda alpha: intervals.rate_interval(0, 0, alpha),
        lambda alpha: intervals.quantile_interval({1: 10}, 0.5, alpha),
    ],
)
def test_nothing_is_computed_for_one(ask: Callable[[float], object], alpha: float) -> None:
    with pytest.raises(InvalidValueError, match="alpha"):
        ask(alpha)


@pytest.mark.parametrize(("events", "trials"), [(-1, 10), (11, 10), (1, 0), (0, -1)])
def test_an_interval_of_counts_that_cannot_be_is_refused(events: int, trials: int) -> None:
    with pytest.raises(InvalidValueError, match="cannot be"):
        intervals.rate_interval(events, trials, 0.05)


@pytest.mark.parametrize("q", [0.0, 1.0, math.nan, 2.0])
def test_an_interval_of_no_quantile_is_refused(q: float) -> None:
    with pytest.raises(InvalidValueError, match="quantile"):
        intervals.quantile_interval({1: 10}, q, 0.05)


@pytest.mark.parametrize("name", ["alpha_rollback", "alpha_promote", "alpha_sample_ratio"])
@pytest.mark.parametrize("text", ["1", "-0.01", "1.5", ".nan", ".inf", "-.inf", "1e400", "'0.01'", "null"])
def test_no_configuration_has_one(name: str, text: str, tmp_path: Path) -> None:
    backends = "backends: {a: {endpoints: [http://127.0.0.1:1]}, b: {endpoints: [http://127.0.0.1:2]}}"
    route = f"{{name: r, match: {{path_prefix: /}}, stable: a, canary: b, analysis: {{{name}: {text}}}}}"
    content = f"admin: {{token_env: TOKEN}}\n{backends}\nroutes: [{route}]\n"
    with pytest.raises(ConfigError, match=rf"routes\[0\].analysis.{name}: .*probability from") as refused:
        load(tmp_path / "gateway.yaml", text=content.encode(), environ={"TOKEN": "0123456789abcdef"})
    assert len(refused.value.issues) == 1


@pytest.mark.parametrize("option", ["--alpha", "--alpha-promote"])
@pytest.mark.parametrize("alpha", [*map(str, BARE), "many", ""])
@pytest.mark.parametrize("command", [("plan", "--rate=50", "--base-rate=0.01"), ("replay", str(RECORDING))])
def test_no_command_takes_one(command: tuple[str, ...], option: str, alpha: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, f"{option}={alpha}"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert "alpha" in err.splitlines()[-1]


@pytest.mark.parametrize("alpha", ["0", "1", "2", "-1", "1e999", "null"])
def test_no_snapshot_brings_one_back(alpha: str) -> None:
    state = msgspec.json.encode(fresh_state(AnalysisSpec())).decode()
    tampered = state.replace('"alpha_rollback":0.01', f'"alpha_rollback":{alpha}')
    assert tampered != state
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(tampered, type=AnalysisState)


@pytest.mark.parametrize("alpha", BARE)
def test_a_spec_that_was_forced_to_have_one_is_another_than_the_states(alpha: float) -> None:
    spec = AnalysisSpec()
    state = fresh_state(spec)
    forced = AnalysisSpec()
    msgspec.structs.force_setattr(forced, "alpha_rollback", alpha)
    assert judge(forced, state, Evidence(1.0, ()))[1].verdict is Verdict.ERROR
