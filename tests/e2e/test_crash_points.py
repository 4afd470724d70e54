"""kill -9 of the real control process before and after every kind of commit that a rollout makes, on a real file.

What comes back gives the canary no more than was in force (or, where nobody remembers, than was journaled), knows of
the decision exactly if its commit had returned, and goes on to call the hooks. `tests/sim/test_crashes.py` dies at
every await instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import msgspec
import pytest

from gateway.control.journal.sqlite_store import SqliteStore
from gateway.runtime import wire
from tests.hooks.receiver import WebReceiver
from tests.support.control import SpokenWorker
from tests.support.worker import EVENTUALLY_S, eventually

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


class Case(NamedTuple):
    """A commit: the table that it writes to, the actions before it, the one that leads to it, and its event's name."""

    table: str
    before: tuple[str, ...]
    action: str
    kind: str


CASES = (
    Case("events", (), "start", "Started"),
    Case("deliveries", (), "start", "Started"),
    Case("snapshots", ("start",), "look", ""),
    Case("events", ("start",), "good", "Analysed"),
    Case("events", ("start",), "pause", "PauseRequested"),
    Case("events", ("start",), "lower", "WeightRequested"),
    Case("events", ("start", "lower"), "resume", "ResumeRequested"),
    Case("roles", ("start",), "promote", "PromoteRequested"),
    Case("events", ("start", "promote"), "abort", "AbortRequested"),
    Case("events", ("start",), "bad", "Analysed"),
    Case("events", ("start",), "abort", "AbortRequested"),
    Case("pruned", (), "start", "Started"),
    Case("weights", (), "raise", ""),
    Case("weights", ("raise",), "zero", ""),
)


class Life:
    """One control process after the other, the worker that outlives them, and an operator."""

    remembers = True

    def __init__(self, directory: Path, hook: str) -> None:
        self.directory = directory
        self.armed = directory / "armed"
        self.config = directory / "gateway.yaml"
        step = {"min_time_s": 0, "min_requests": 0}
        route = {"name": "r", "match": {"path_prefix": "/"}, "stable": "v1", "canary": "v2"}
        route |= {
            # Nobody reads answers here, and a canary that is to be judged by them would never pass.
            "analysis": {name: {"mode": "off"} for name in ("latency", "model_errors", "predictions")},
            "plan": {"steps": [step | {"percent": 20}, step | {"percent": 50}]},
        }
        backend = {"endpoints": ["http://127.0.0.1:9"], "probe": None}
        tree = {"backends": {"v1": backend, "v2": backend}, "routes": [route], "hooks": [{"name": "h", "url": hook}]}
        self.config.write_bytes(msgspec.yaml.encode(tree))
        self.worker = SpokenWorker(0, "w0")
        self.births = self.deaths = 0
        self.rollout = ""
        self.owed: set[str] = set()

    async def __aenter__(self) -> Self:
        command = (sys.executable, "-m", "tests.support.mortal", str(self.config), str(self.directory))
        pipe = asyncio.subprocess.PIPE
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        self.host = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=ROOT, env=environ)
        port = await self.said()
        self.admin = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=EVENTUALLY_S)
        self.speaking = asyncio.create_task(self.speak())
        await self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.speaking.cancel()
        await asyncio.gather(self.speaking, return_exceptions=True)
        await self.admin.aclose()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        assert self.host.stdin is not None
        self.host.stdin.close()
        await asyncio.wait_for(self.host.wait(), EVENTUALLY_S)
        await self.worker.close()

    async def said(self) -> int:
        """The next number that the host says."""
        assert self.host.stdout is not None
        return int(await asyncio.wait_for(self.host.stdout.readline(), 2 * EVENTUALLY_S))

    async def speak(self) -> None:
        """The worker says all the time what it has counted."""
        while True:
            await asyncio.sleep(0.05)
            if self.worker.task is not None:
                self.worker.writer.write(wire.encode(self.worker.tally.report(self.worker.epoch, 0, 0, 0)))

    async def begin(self) -> None:
        """A control process is born, and takes over."""
        assert self.host.stdin is not None
        self.host.stdin.write(b"remembers\n" if self.remembers else b"forgets\n")
        self.remembers = True
        self.pid = await self.said()
        deadline_s = asyncio.get_running_loop().time() + EVENTUALLY_S
        while self.worker.task is None:
            assert asyncio.get_running_loop().time() < deadline_s, "control does not listen"
            with contextlib.suppress(OSError):
                await self.worker.connect(self.directory / "control.sock")
            await asyncio.sleep(0.01)
        await self.get("/routes/r")
        await eventually(lambda: self.worker.epoch > 0, "the worker has a table")

    async def dies(self) -> None:
        """It has been killed by its own hand."""
        assert os.WTERMSIG(await self.said()) == signal.SIGKILL
        assert not self.armed.exists()
        self.deaths += 1
        await self.worker.close()

    def forget(self) -> None:
        """The worker dies too, its successor knows of nothing, and what the processes shared is gone."""
        self.remembers = False
        self.births += 1
        self.worker = SpokenWorker(0, f"w0-{self.births}")

    async def get(self, path: str) -> Any:
        """What it shows."""
        reply = await self.admin.get(path)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def request(self, verb: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What it answers; nothing when it dies of it."""
        with contextlib.suppress(httpx.TransportError):
            reply = await self.admin.request(verb, path, json=body or {})
            assert reply.status_code in (200, 201), reply.text
            found: dict[str, Any] = reply.json()
            return found
        return {}

    async def act(self, action: str) -> None:
        """One action; where it is traffic, until something comes of it."""
        rollout = f"/rollouts/{self.rollout}"
        requests: dict[str, Callable[[], Awaitable[Any]]] = {
            "pause": lambda: self.request("POST", f"{rollout}/pause"),
            "resume": lambda: self.request("POST", f"{rollout}/resume"),
            "promote": lambda: self.request("POST", f"{rollout}/promote"),
            "abort": lambda: self.request("POST", f"{rollout}/abort"),
            "lower": lambda: self.request("PUT", "/routes/r/weight", {"canary_percent": 5}),
            "raise": lambda: self.request("PUT", "/routes/r/weight", {"canary_percent": 30}),
            "zero": lambda: self.request("PUT", "/routes/r/weight", {"canary_percent": 0}),
        }
        if action == "start":
            self.rollout = (await self.request("POST", "/routes/r/rollouts", {"retry": True})).get("id", "")
        elif action in requests:
            await requests[action]()
        elif action in ("good", "bad"):
            await self.traffic(bad=action == "bad")

    async def traffic(self, *, bad: bool) -> None:
        """Serve until control has died of what it found."""
        for _ in range(900):
            if not self.armed.exists():
                return
            canary = 1200 * self.worker.weight_bp() // 10_000
            tally = self.worker.tallies["r"]
            self.worker.serve(1200 - canary, canary, canary if bad else 0)
            tally.arms[0].assigned += 1200 - canary
            tally.arms[1].assigned += canary
            await asyncio.sleep(0.1)
        raise AssertionError("nothing was found")

    async def calm(self) -> None:
        """No rollout under way, no weight."""
        for view in (await self.get("/rollouts?limit=1"))["rollouts"]:
            if view["phase"] not in ("ROLLED_BACK", "WITHDRAWN"):
                await self.request("POST", f"/rollouts/{view['id']}/abort")
        await self.request("PUT", "/routes/r/weight", {"canary_percent": 0})

    def exposure(self) -> int:
        """What the worker gives v2."""
        route = None if self.worker.table is None else self.worker.table.route("r")
        return 0 if route is None else 10_000 if route.stable == "v2" else route.weight_bp

    async def histories(self) -> dict[str, list[dict[str, Any]]]:
        """What the journal has of the newest rollouts; all of it is owed to the hook."""
        found = {}
        for view in (await self.get("/rollouts?limit=3"))["rollouts"]:
            reply = await self.admin.get(f"/rollouts/{view['id']}/story")
            if reply.status_code == 404:
                continue  # an old one, taken out of the journal
            found[view["id"]] = history = reply.json()["decisions"]
            self.owed |= {f"{view['id']}.{decision['revision']}" for decision in history}
            last = history[-1]
            shown = (view["revision"], view["phase"], view["canary_percent"])
            assert (last["revision"], last["phase"], last["canary_percent"]) == shown, "what is told is what lives"
            assert [decision["revision"] for decision in history] == list(range(1, len(history) + 1))
        return found


def may_give_bp(histories: dict[str, list[dict[str, Any]]]) -> int:
    """The most that the journal's rollouts allow."""
    last = [history[-1] for history in histories.values()]
    promoted = any(decision["phase"] == "PROMOTED" for decision in last)
    return 10_000 if promoted else max((round(decision["canary_percent"] * 100) for decision in last), default=0)


async def die(life: Life, case: Case, when: str, *, remembered: bool) -> None:
    """Bring about the case, die at its commit, come back and compare."""
    await life.calm()
    for action in case.before:
        await life.act(action)
    had = await life.histories()
    life.armed.write_text(f"{case.table} {when}")
    await life.act(case.action)
    await life.dies()
    live_bp = life.exposure()
    if not remembered:
        life.forget()
    await life.begin()
    where = f"{case.action}, {when} its commit to {case.table}, remembered: {remembered}"
    histories = await life.histories()
    fresh = [d["event"] for rollout, history in histories.items() for d in history[len(had.get(rollout, [])) :]]
    if case.kind:
        # What is written beside a decision comes after it.
        committed = when == "after" or case.table in ("pruned", "deliveries")
        assert (case.kind in fresh) is committed, f"{where}: {fresh}"
    if remembered:
        assert life.exposure() <= live_bp, where
    elif case.table == "weights":
        assert life.exposure() == (3000 if (case.action == "raise") is (when == "after") else 0), where
    else:
        assert life.exposure() <= may_give_bp(histories), where


async def test_a_kill_at_any_commit_loses_no_decision_and_raises_nothing(tmp_path: Path) -> None:
    async with WebReceiver() as hook, Life(tmp_path, hook.url) as life:
        for number, case in enumerate(CASES):
            await die(life, case, "before", remembered=number % 2 == 0)
            await die(life, case, "after", remembered=number % 2 == 1)
        await life.calm()
        await life.histories()

        def reported() -> set[str]:
            return {json.loads(letter.body)["id"] for letter in hook.received}

        await eventually(lambda: life.owed <= reported(), "the hook has received everything")
    sys.stdout.write(f"{life.deaths} crash points\n")
    assert life.deaths == 2 * len(CASES)
    with SqliteStore.open(tmp_path / "state" / "state.sqlite3") as store:
        assert all(store.journal.replay(rollout.rollout_id) == rollout for rollout in store.journal.rollouts())


async def test_a_kill_at_the_commit_of_a_configuration_or_an_answer_keeps_all_of_it_or_nothing(tmp_path: Path) -> None:
    async with WebReceiver() as hook, Life(tmp_path, hook.url) as life:
        for when in ("before", "after"):
            life.armed.write_text(f"configurations {when}")
            name, body = f"v3-{when}", {"endpoints": ["http://127.0.0.1:9"], "probe": None}
            assert await life.request("PUT", f"/backends/{name}", body) == {}
            await life.dies()
            await life.begin()
            shown = [backend["name"] for backend in (await life.get("/backends"))["backends"]]
            assert (name in shown) is (when == "after"), "stored is in force, and nothing else is"
            assert (await life.get("/config/source"))["source"] == ("api" if when == "after" else "file")
        for when in ("before", "after"):
            life.armed.write_text(f"answers {when}")
            once: dict[str, Any] = {"json": {"retry": True}, "headers": {"idempotency-key": f"build-{when}"}}
            with contextlib.suppress(httpx.TransportError):
                await life.admin.post("/routes/r/rollouts", **once)
            await life.dies()
            await life.begin()
            started = [view["id"] for view in (await life.get("/rollouts"))["rollouts"]]
            again = await life.admin.post("/routes/r/rollouts", **once)
            # What was decided stands in both cases; only the answer to its key may be forgotten.
            assert [view["id"] for view in (await life.get("/rollouts"))["rollouts"]] == started
            assert again.status_code == (201 if when == "after" else 409), again.text
            assert when == "before" or again.json()["id"] == started[0]
            await life.calm()
        life.armed.write_text("audit before")
        await life.request("PUT", "/routes/r/weight", {"canary_percent": 0})
        await life.dies()
        await life.begin()
        numbers = [entry["id"] for entry in (await life.get("/audit"))["entries"]]
        assert numbers == list(range(numbers[0], 0, -1))
