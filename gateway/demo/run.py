"""The stages in their order: processes up, traffic, a rollout to its end, a moment more of traffic, processes down.

Rules:

1. Everything that was started is stopped, whatever happens, before `Demo.run` returns or raises.
2. A process that ends by itself ends the demo with a DemoError that says which, unless the scenario killed it.
3. The seed fixes what the demo does: inputs, pacing, the faults' randomness, the moment of a kill. Which requests go to
   the canary is the gateway's own random choice.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import msgspec

from gateway import bundled
from gateway.demo import configuration
from gateway.demo.admin import Admin
from gateway.demo.client.report import ClientReport, ClientSettings
from gateway.demo.output import DemoOutput
from gateway.demo.processes import DemoError, DemoProcess
from gateway.demo.progress import DemoEvent, DemoProgress
from gateway.demo.scenarios import STABLE_MODEL, STABLE_TEXT_MODEL, Scenario
from gateway.demo.summary import Summary, summarise

MODEL_NAME = "digits"
_RATE_PER_S, _LLM_RATE_PER_S = 250.0, 60.0
_READY_TIMEOUT_S = 45.0
_BASELINE_S = 1.5
_AFTER_S = 1.5
_DECISION_GRACE_S = 15.0
_FRAME_S = 0.125
# The supervisor may take this long: workers drain, then control closes its journal.
_GATEWAY_STOP_TIMEOUT_S = 12.0


@dataclass(frozen=True)
class DemoSettings:
    """What was asked for. Ports may be 0."""

    scenario: Scenario
    seed: int
    port: int = 0
    admin_port: int = 0
    workers: int = 1
    rate_per_s: float | None = None
    keep_running_s: float = 0.0
    mirror: bool = False


class Demo:
    """One run, in a directory that exists and is empty."""

    def __init__(self, settings: DemoSettings, directory: Path, output: DemoOutput) -> None:
        self._settings = settings
        self._output = output
        self._random = random.Random(settings.seed)
        self._since_s = monotonic()
        self._progress = DemoProgress(settings.scenario, settings.seed, self._since_s)
        self._config = directory / "gateway.yaml"
        scenario = settings.scenario
        self._rate_per_s = settings.rate_per_s or (_LLM_RATE_PER_S if scenario.llm else _RATE_PER_S)
        stable_model = bundled.text_path(STABLE_TEXT_MODEL) if scenario.llm else bundled.path(STABLE_MODEL)
        canary_model = (bundled.text_path if scenario.llm else bundled.path)(scenario.canary_model)
        pace = (f"token-ms={configuration.TOKEN_MS}",) if scenario.llm else ()
        self._stable = _model_server("the stable model server", stable_model, pace, self._draw_seed())
        self._canary = _model_server(
            "the canary model server", canary_model, _with(pace, scenario.faults), self._draw_seed()
        )
        self._gateway = DemoProcess(
            "the gateway", "gateway", "serve", str(self._config), stop_timeout_s=_GATEWAY_STOP_TIMEOUT_S
        )
        self._client = DemoProcess("the client", "gateway.demo.client")
        self._processes = (self._client, self._gateway, self._canary, self._stable)
        self._admin: Admin | None = None
        self._decided = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> Summary:
        """Run the scenario to its end; DemoError when the demo itself could not."""
        try:
            async with asyncio.TaskGroup() as group:
                self._tasks = [group.create_task(self._frames())]
                self._tasks += [group.create_task(self._watch(process)) for process in self._processes]
                summary = await self._through(group)
                for task in self._tasks:
                    task.cancel()
            return summary
        except ExceptionGroup as group_of:
            raise _first(group_of) from None
        finally:
            await self._stop()

    def stop_now(self) -> None:
        """On a second signal: kill all but the supervisor, which on a second SIGTERM kills its own children."""
        for process in self._processes:
            if process is not self._gateway:
                process.send(signal.SIGKILL)
        self._gateway.send(signal.SIGTERM)

    def kill(self) -> None:
        """Kill everything at once; the gateway's workers end as after any death of their supervisor."""
        for process in self._processes:
            process.send(signal.SIGKILL)

    # the stages, in their order

    async def _through(self, group: asyncio.TaskGroup) -> Summary:
        url, admin_url = await self._start_servers()
        admin = self._admin = Admin(admin_url)
        await admin.until_ready(_READY_TIMEOUT_S)
        listening = asyncio.Event()
        self._tasks.append(group.create_task(self._follow(admin, listening)))
        await self._within(_READY_TIMEOUT_S, listening, "the gateway's event stream did not start")
        await self._client.start(msgspec.json.encode(self._client_settings(url)))
        reading = group.create_task(self._read_client())
        self._progress.stage = "baseline"
        self._show([self._started(url, admin_url)])
        await asyncio.sleep(_BASELINE_S)
        await admin.start_rollout(configuration.ROUTE)
        if self._settings.scenario.killed_after_s is not None:
            self._tasks.append(group.create_task(self._kill_canary(*self._settings.scenario.killed_after_s)))
        timeout_s = configuration.deadline_s(mirror=self._settings.mirror) + _DECISION_GRACE_S
        await self._within(timeout_s, self._decided, "the rollout did not end")
        await asyncio.sleep(_AFTER_S + self._settings.keep_running_s)
        await self._client.stop()
        await reading
        report = self._progress.report
        if report is None or not report.final:
            raise DemoError("the client exited without a final report")
        return summarise(self._progress, report, monotonic() - self._since_s)

    async def _start_servers(self) -> tuple[str, str]:
        """Model servers, then the gateway in front of them; returns its two addresses."""
        for server in (self._stable, self._canary):
            await server.start()
        stable_url, canary_url = [
            (await server.wait_for_line(r"ready on (http://\S+)$", _READY_TIMEOUT_S))[1]
            for server in (self._stable, self._canary)
        ]
        text = configuration.configuration(
            name=self._config.name,
            port=self._settings.port,
            admin_port=self._settings.admin_port,
            workers=self._settings.workers,
            stable_url=stable_url,
            canary_url=canary_url,
            mirror=self._settings.mirror,
            llm=self._settings.scenario.llm,
        )
        self._config.write_text(text, encoding="utf-8")
        await self._gateway.start()
        said = await self._gateway.wait_for_line(
            r"serving on (http://\S+), admin on (http://[^\s,]+)", _READY_TIMEOUT_S
        )
        return said[1], said[2]

    def _client_settings(self, url: str) -> ClientSettings:
        address = urlsplit(url)
        assert address.hostname is not None and address.port is not None
        return ClientSettings(
            address.hostname,
            address.port,
            configuration.CHAT_PATH if self._settings.scenario.llm else configuration.INFER_PATH,
            seed=self._draw_seed(),
            rate_per_s=self._rate_per_s,
            chat=MODEL_NAME if self._settings.scenario.llm else "",
            streams=self._settings.scenario.streams,
            stream_path=configuration.STREAM_PATH,
            patience_s=self._settings.scenario.patience_s,
        )

    def _started(self, url: str, admin_url: str) -> DemoEvent:
        scenario = self._settings.scenario
        return self._progress.event(
            "started",
            monotonic(),
            f"scenario {scenario.name}, seed {self._settings.seed}: {scenario.description} Watch it: {admin_url}/",
            scenario=scenario.name,
            title=scenario.title,
            seed=self._settings.seed,
            url=url,
            admin_url=admin_url,
            console_url=f"{admin_url}/",
            config=str(self._config),
            pids={process.name: process.pid for process in self._processes},
        )

    async def _within(self, timeout_s: float, awaited: asyncio.Event, problem: str) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await awaited.wait()
        except TimeoutError:
            raise DemoError(f"{problem} within {timeout_s:g} s") from None

    # tasks beside the stages

    async def _follow(self, admin: Admin, listening: asyncio.Event) -> None:
        async for event in admin.events(listening):
            self._show(self._progress.on_event(event, monotonic()))
            if self._progress.decision is not None:
                self._decided.set()

    async def _read_client(self) -> None:
        async for line in self._client.lines():
            self._show(self._progress.on_report(msgspec.json.decode(line, type=ClientReport)))

    async def _kill_canary(self, earliest_s: float, latest_s: float) -> None:
        delay_s = self._random.uniform(earliest_s, latest_s)
        while (report := self._progress.report) is None or report.first_canary_s is None:
            await asyncio.sleep(_FRAME_S)
        await asyncio.sleep(report.first_canary_s + delay_s - monotonic())
        self._canary.expected_to_die = True
        self._canary.send(signal.SIGKILL)
        self._show([self._progress.killed(monotonic())])

    async def _watch(self, process: DemoProcess) -> None:
        await process.ended.wait()
        if process.failure is not None:
            raise DemoError(process.failure)

    async def _frames(self) -> None:
        while True:
            self._output.show(self._progress, monotonic())
            await asyncio.sleep(_FRAME_S)

    async def _stop(self) -> None:
        await asyncio.gather(*(process.stop() for process in self._processes))
        if self._admin is not None:
            await self._admin.close()

    def _show(self, things: Iterable[DemoEvent]) -> None:
        for event in things:
            self._output.show_event(event)

    def _draw_seed(self) -> int:
        return self._random.getrandbits(32)


def _with(pace: tuple[str, ...], faults: tuple[str, ...]) -> tuple[str, ...]:
    """The faults, and the pace where they have none of their own."""
    keys = {fault.partition("=")[0] for fault in faults}
    return (*(one for one in pace if one.partition("=")[0] not in keys), *faults)


def _model_server(name: str, model: Path, faults: tuple[str, ...], seed: int) -> DemoProcess:
    options = [part for fault in faults for part in ("--fault", fault)]
    command = ("model-server", str(model), "--port", "0", "--name", MODEL_NAME, "--fault-seed", str(seed))
    return DemoProcess(name, "gateway", *command, *options)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception in a group: where one process's end made others fail, it is the one that says why."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
