"""A short chaos: the same program as `make chaos`, with a seed that is fixed so that a failure can be repeated."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.chaos import schedule
from loadtests.faults.books import ANSWERED, CUT, LEFT, RESET, SILENCE, Books, Call, Kill
from loadtests.faults.catalogue import FAULTS
from loadtests.faults.models import ModelActions

# What pins cores or makes load of its own takes turns.

ROOT = Path(__file__).parents[2]
SEED = 2


def test_under_faults_every_request_has_one_outcome_and_none_is_lost() -> None:
    faults = "hang_0,cut_1,probe_slow,canary_bad,scrape,stuck,bad_file"
    program = [sys.executable, "-m", "loadtests.chaos", "--seconds", "12", "--seed", str(SEED), "--faults", faults]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["wrong"], report["lost"]) == ([], {})
    assert report["sent"] > 200
    assert sum(report["faults"].values()) >= 4


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_follows_from_its_seed_and_faults_that_need_the_same_never_meet(seed: int) -> None:
    plan = schedule(FAULTS, 600, random.Random(seed))
    assert plan == schedule(FAULTS, 600, random.Random(seed))
    assert {one.fault for one in plan} == set(FAULTS)
    for n, one in enumerate(plan):
        for other in plan[n + 1 :]:
            if other.due_s < one.due_s + one.fault.lasts_s:
                assert not one.fault.claims & other.fault.claims, (one, other)


def entered(outcome: str, status: int = 0, *, flow: str = "plain") -> tuple[Books, Call]:
    found = Books(ModelActions())
    call = found.open(flow, 10.0)
    call.connected_s = 9.0
    found.close(call, outcome, 11.0, status=status)
    return found, call


@pytest.mark.parametrize(("outcome", "status"), [(ANSWERED, 503), (ANSWERED, 413), (CUT, 0), (RESET, 0), (SILENCE, 0)])
def test_what_nobody_can_be_blamed_for_is_lost(outcome: str, status: int) -> None:
    found, call = entered(outcome, status)
    assert found.lost([call]) == [call]


def test_what_a_direct_connection_would_have_lost_is_not() -> None:
    actions = ModelActions()
    found = Books(actions)
    cut, rejected, left = (found.open("plain", 10.0) for _ in range(3))
    actions.cut.add(cut.id)
    actions.rejected.add(rejected.id)
    found.close(cut, CUT, 11.0)
    found.close(rejected, ANSWERED, 11.0, status=413)
    found.close(left, LEFT, 11.0)
    assert found.lost([cut, rejected, left]) == []


@pytest.mark.parametrize(("at_s", "lost"), [(8.0, True), (10.5, False), (11.5, True)])
def test_a_killed_worker_excuses_what_it_had_in_hand_and_nothing_else(at_s: float, lost: bool) -> None:
    found, call = entered(RESET)
    found.kills.append(Kill(at_s, at_s))
    assert bool(found.lost([call])) is lost


def test_two_outcomes_and_none_are_errors_of_the_run(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    found, call = entered(ANSWERED, 200)
    found.close(call, RESET, 12.0)
    found.open("plain", 10.0)
    log.write_text("")
    found.check(log)
    assert [wrong.split(" ", 1)[1] for wrong in found.wrongs][:2] == [
        "had two outcomes: answered, no answer",
        "has no outcome",
    ]


@pytest.mark.parametrize(
    ("statuses", "wrong"), [([200], False), ([503], True), ([], True), ([200, 200], True)], ids=str
)
def test_the_access_log_has_the_same_of_each_request(tmp_path: Path, statuses: list[int], wrong: bool) -> None:
    log = tmp_path / "access.log"
    found, call = entered(ANSWERED, 200)
    log.write_text(
        "".join(
            json.dumps({"request_id": call.id, "client": "127.0.0.1", "status": status}) + "\n" for status in statuses
        )
    )
    found.check(log)
    assert bool(found.wrongs) is wrong


def test_a_request_that_nobody_sent_is_seen_in_the_access_log(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(json.dumps({"request_id": "smuggled", "client": "127.0.0.1", "status": 200}) + "\n")
    found = Books(ModelActions())
    found.check(log)
    assert "nobody sent" in found.wrongs[0]
