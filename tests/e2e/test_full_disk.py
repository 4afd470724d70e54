"""A real disk without room under a real gateway: what rises stands still, what falls falls, and all of it comes back.

The means: a small file system of memory, where mounting one is permitted, and everywhere the system's own limit on the
size of files, set on the running control process from outside.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backend import Backend, answer
from tests.support.gateway import RunningGateway, Traffic, config
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio


def mounted(place: Path) -> bool:
    """Mount a file system of one MiB there, if that is permitted."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def means() -> list[str]:
    """What this machine permits; never nothing."""
    with tempfile.TemporaryDirectory() as place:
        if mounted(Path(place)):
            subprocess.run(["umount", place], check=True)
            return ["a small file system", "a limit"]
    return ["a limit"]


class Room:
    """The room that the journal's disk has."""

    def __init__(self, by: str, state: Path) -> None:
        self.by = by
        self.filler = state / "filler"
        self._before = (0, 0)

    def take(self, control: int) -> None:
        """From now on there is none."""
        if self.by == "a limit":
            self._before = resource.prlimit(control, resource.RLIMIT_FSIZE)
            resource.prlimit(control, resource.RLIMIT_FSIZE, (0, self._before[1]))
            return
        with contextlib.suppress(OSError), self.filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def give(self, control: int) -> None:
        """There is room again."""
        if self.by == "a limit":
            resource.prlimit(control, resource.RLIMIT_FSIZE, self._before)
        else:
            self.filler.unlink()


@pytest.fixture(params=means())
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    """Where the gateway keeps its state."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    small = request.param == "a small file system"
    assert not small or mounted(state)
    yield Room(request.param, state)
    if small:
        subprocess.run(["umount", str(state)], check=True)


async def test_without_room_nothing_rises_all_is_served_and_with_room_it_goes_on(tmp_path: Path, room: Room) -> None:
    async with Backend() as s, Backend() as c:
        plan = {"steps": [{"percent": 20, "min_time_s": 3600}]}
        settings = config(s.url, c.url, plan=plan) | {"workers": 1}
        async with RunningGateway(tmp_path, settings) as gateway, Traffic(gateway.url) as traffic:
            rollout = await gateway.start_rollout()
            await traffic.reaches(50)
            (control,) = gateway.children()["control"]
            room.take(control)
            refused = await gateway.admin.post(f"/api/v1/rollouts/{rollout}/promote")
            assert (refused.status_code, "journal" in refused.text) == (503, True), refused.text
            view = await gateway.rollout(rollout)
            assert (view["phase"], view["canary_percent"]) == ("PROGRESSING", 20)
            (alarm,) = await gateway.until_alarms(1)
            assert "decisions are not stored any more, rollouts are frozen" in alarm["reason"]
            await traffic.reaches(traffic.total + 50)
            c.script = answer(500, b"boom")
            assert (await gateway.until_phase(rollout, "ROLLED_BACK"))["canary_percent"] == 0
            await traffic.reaches(traffic.total + 50)
            assert traffic.failures == []
            room.give(control)
            await eventually(lambda: control not in gateway.children()["control"], "control starts anew")
            await gateway.ready()
            view = await gateway.rollout(rollout)
            assert (view["phase"], view["canary_percent"]) == ("PAUSED", 0), "what was in force stays in force"
            assert "a rollback may not have reached the journal" in view["reason"]
            aborted = await gateway.admin.post(f"/api/v1/rollouts/{rollout}/abort")
            assert aborted.json()["phase"] == "ROLLED_BACK"
            c.script = answer(200)
            again = await gateway.admin.post("/api/v1/routes/r/rollouts", json={"retry": True})
            assert again.status_code == 201, again.text
            assert traffic.failures == []
