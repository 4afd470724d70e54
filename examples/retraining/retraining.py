"""Continuous retraining on drifting digits, end to end and on one machine: `examples/retraining/run` starts it.

Each month the digits look a little different. A model is retrained on them, its data are validated by a suite of Great
Expectations, it is registered in MLflow, and the alias `challenger` is set on it. From there the gateway takes it: it
downloads the model, serves it, and gives it half of the requests until its users' labels have decided.

    first     trained on the digits as they were: the champion, served as stable
    second    a month of drift later: better on the digits of today, so it is promoted and becomes champion
    third     its labels were shifted by one. Its data conform, and its accuracy, measured on the same labels, is fine.
              Users say otherwise: rolled back
    fourth    a batch in other units does not conform: no model is trained
    fifth     the batch repaired: promoted
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gateway.integrations.great_expectations.__main__ import Suite

HERE = Path(__file__).parent
SEED = 2026
MODEL = "digits"
RATE_HZ = 80.0
LABELS_TOGETHER = 20
# For the slowest machine; what comes earlier is not waited for.
STARTS_S, VERDICT_S = 300.0, 600.0


class Batch(NamedTuple):
    """A month's digits: pixels of 0 to 16, and what people say they are."""

    pixels: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]


def drifted(month: int) -> tuple[Batch, Batch]:
    """The digits of a month, to train on and to be asked: they move to the right and fade."""
    digits = load_digits()
    images = digits.images.astype(np.float32)
    moved = np.roll(images, 1, axis=2)
    moved[:, :, 0] = 0.0
    share = min(0.2 * month, 0.8)
    noise = np.random.default_rng(SEED + month).normal(0.0, 0.4, images.shape)
    pixels = ((1.0 - share) * images + share * moved) * (1.0 - 0.04 * month) + noise
    # Whole greys, as a scanner gives them.
    flat = np.clip(np.rint(pixels), 0.0, 16.0).astype(np.float32).reshape(len(images), 64)
    parts = train_test_split(flat, digits.target, test_size=500, stratify=digits.target, random_state=SEED)
    return Batch(parts[0], parts[2]), Batch(parts[1], parts[3])


def conforms(suite: Suite, batch: Batch) -> list[str]:
    """What the suite has against the batch."""
    frame = pd.DataFrame(
        {
            "request.pixels.min": batch.pixels.min(axis=1),
            "request.pixels.max": batch.pixels.max(axis=1),
            "request.pixels.mean": batch.pixels.mean(axis=1),
            "response.label": batch.labels,
        }
    )
    failures: list[str] = suite.judge(frame)["failures"]
    return failures


def trained(batch: Batch) -> tuple[bytes, float]:
    """The model as ONNX, and its accuracy on a part of the batch that it did not see."""
    parts = train_test_split(batch.pixels, batch.labels, test_size=0.2, stratify=batch.labels, random_state=SEED)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(parts[0], parts[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        onnx = to_onnx(
            model, initial_types=[("pixels", FloatTensorType([None, 64]))], options={id(model): {"zipmap": False}}
        )
    renamed = dict(zip((one.name for one in onnx.graph.output), ("label", "probabilities"), strict=True))
    for output in onnx.graph.output:
        output.name = renamed[output.name]
    for node in onnx.graph.node:
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.input[:] = [renamed.get(name, name) for name in node.input]
    return onnx.SerializeToString(), float(model.score(parts[1], parts[3]))


class Registry:
    """The MLflow server, as a training pipeline uses it."""

    def __init__(self, url: str) -> None:
        mlflow.set_tracking_uri(url)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self.client = mlflow.MlflowClient()

    def register(self, model: bytes) -> str:
        """A new version; its number."""
        import onnx  # noqa: PLC0415  # comes with skl2onnx

        signature = ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 64), "pixels")]))
        # What MLflow says of its progress is no part of the transcript.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            info = mlflow.onnx.log_model(
                onnx.load_model_from_string(model), name="model", signature=signature, pip_requirements=[]
            )
            return str(mlflow.register_model(info.model_uri, MODEL).version)

    def alias(self, alias: str, version: str) -> None:
        """Set an alias."""
        self.client.set_registered_model_alias(MODEL, alias, version)

    def champion(self) -> str:
        """The version that is champion."""
        return str(self.client.get_model_version_by_alias(MODEL, "champion").version)

    def verdict(self, version: str) -> tuple[str, str]:
        """What the gateway says of a version, once it does."""
        deadline_s = time.monotonic() + VERDICT_S
        while True:
            tags = self.client.get_model_version(MODEL, version).tags
            if "canary.rollout" in tags or tags.get("canary.verdict") == "refused":
                return tags["canary.verdict"], tags["canary.reason"]
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"version {version} has no verdict after {VERDICT_S:g} s: {tags}")
            time.sleep(0.5)


class Users:
    """Requests with the digits of the present month; afterwards somebody says whether the answer was right."""

    def __init__(self, gateway: str, admin: str) -> None:
        self._gateway, self._admin = gateway, admin
        self.month = 0
        self.sent = 0
        self.failures: list[str] = []
        self._said: list[dict[str, Any]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._ended.set()
        self._thread.join(30)

    async def _run(self) -> None:
        asked = {month: drifted(month)[1] for month in range(4)}
        async with httpx.AsyncClient(timeout=30) as client, asyncio.TaskGroup() as group:
            while not self._ended.is_set():
                batch = asked[self.month]
                index = self.sent % len(batch.labels)
                group.create_task(self._ask(client, batch.pixels[index].tolist(), int(batch.labels[index])))
                self.sent += 1
                if self.sent % LABELS_TOGETHER == 0 and self._said:
                    group.create_task(self._label(client))
                await asyncio.sleep(1 / RATE_HZ)

    async def _ask(self, client: httpx.AsyncClient, pixels: list[float], label: int) -> None:
        body = {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": pixels}]}
        try:
            reply = await client.post(f"{self._gateway}/v2/models/{MODEL}/infer", json=body)
            answer = next(one for one in reply.json()["outputs"] if one["name"] == "label")["data"][0]
            said = {"request_id": reply.headers["x-request-id"], "name": "wrong", "value": answer != label}
            self._said.append(said)
        except (httpx.HTTPError, ValueError, KeyError, StopIteration) as error:
            self.failures.append(repr(error))

    async def _label(self, client: httpx.AsyncClient) -> None:
        said, self._said = self._said[:500], self._said[500:]
        # While there is no canary nobody waits for labels; what the gateway says then is of no interest.
        with contextlib.suppress(httpx.HTTPError):
            await client.post(f"{self._admin}/api/v1/routes/{MODEL}/events", json={"events": said})


def free_port() -> int:
    """A port that nobody listens on now."""
    import socket  # noqa: PLC0415  # only here

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], ready: str, directory: Path, environ: dict[str, str]) -> Iterator[None]:
    """A server, from when it is ready to the end of the block."""
    with (directory / f"{Path(command[0]).name}.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=directory, env=os.environ | environ, stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + STARTS_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(ready, timeout=10).is_success:
                    break
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{command[0]} did not start: see {log.name}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


def configuration(registry: str, stable: str, ports: tuple[int, int]) -> dict[str, Any]:
    """The gateway's: one step at half of the traffic, labels decide, the suite judges what is asked and answered."""
    suite = [sys.executable, "-m", "gateway.integrations.great_expectations", "--suite", str(HERE / "suite.json")]
    return {
        "listen": f"127.0.0.1:{ports[0]}",
        "admin": {"listen": f"127.0.0.1:{ports[1]}"},
        "backends": {
            "first": {"endpoints": [stable], "model": {"name": MODEL, "version": "1", "uri": f"models:/{MODEL}/1"}}
        },
        "validators": [
            {"name": "digits", "command": ["/usr/bin/env", f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}", *suite]}
        ],
        "sources": [{"mlflow": {"uri": registry, "model": MODEL, "route": MODEL, "poll_s": 1}}],
        "routes": [
            {
                "name": MODEL,
                "match": {"path_prefix": f"/v2/models/{MODEL}"},
                "stable": "first",
                "analysis": {
                    # Minutes of traffic would be needed to compare latencies; this is about what the models say.
                    "latency": {"mode": "advise"},
                    "events": [{"name": "wrong", "trial": "label", "margin_delta": 0.1}],
                    "labels": {"window_s": 1},
                    "data_checks": {"validator": "digits", "window_rows": 16},
                },
                "plan": {"steps": [{"percent": 50, "min_time_s": 2, "min_requests": 100}]},
            }
        ],
    }


class Example:
    """One run of it. ``say`` takes the lines of its transcript."""

    def __init__(self, directory: Path, gateway_python: str) -> None:
        self._directory = directory
        self._python = gateway_python
        self._began_s = time.monotonic()
        self._suite = Suite(HERE / "suite.json")
        self.outcomes: list[tuple[str, str]] = []

    def say(self, text: str) -> None:
        """A line of the transcript."""
        print(f"{time.monotonic() - self._began_s:4.0f} s  {text}", flush=True)

    def run(self) -> None:
        """All of it."""
        with contextlib.ExitStack() as held:
            url = held.enter_context(self._mlflow())
            registry = Registry(url)
            self.say(f"MLflow is at {url}")
            model, accuracy = trained(drifted(0)[0])
            first = registry.register(model)
            registry.alias("champion", first)
            self.say(f"version {first} trained on month 0, accuracy {accuracy:.3f}: champion, served as stable")
            gateway, admin = held.enter_context(self._gateway(url, model))
            users = Users(gateway, admin)
            users.start()
            held.callback(users.stop)
            self.say(f"the gateway is at {gateway}, its console at {admin}")
            for month, what in ((1, "good"), (2, "shifted labels"), (3, "other units"), (3, "repaired")):
                users.month = month
                self._month(registry, month, what)
            self.say(f"champion is version {registry.champion()}; {users.sent} requests, {len(users.failures)} failed")
            self.outcomes += [("champion", registry.champion()), ("failures", str(len(users.failures)))]

    def _month(self, registry: Registry, month: int, what: str) -> None:
        batch, _ = drifted(month)
        if what == "shifted labels":
            batch = Batch(batch.pixels, (batch.labels + 1) % 10)
        if what == "other units":
            batch = Batch(batch.pixels / 16.0, batch.labels)
        failures = conforms(self._suite, batch)
        if failures:
            self.say(f"month {month}, {what}: the data do not conform, nothing is trained: {failures[0]}")
            self.outcomes.append((what, "refused"))
            return
        model, accuracy = trained(batch)
        version = registry.register(model)
        registry.alias("challenger", version)
        self.say(f"month {month}, {what}: the data conform, accuracy {accuracy:.3f}: version {version} is challenger")
        verdict, reason = registry.verdict(version)
        self.say(f"version {version} {verdict}: {reason}")
        self.outcomes.append((what, verdict))

    @contextlib.contextmanager
    def _mlflow(self) -> Iterator[str]:
        url = f"http://127.0.0.1:{free_port()}"
        home = Path(sys.executable).parent
        command = [str(home / "mlflow"), "server", "--port", url.rpartition(":")[2], "--workers", "1"]
        command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "./artifacts"]
        environ = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with running(command, f"{url}/health", self._directory, environ | {"PATH": f"{home}:{os.environ['PATH']}"}):
            yield url

    @contextlib.contextmanager
    def _gateway(self, registry: str, model: bytes) -> Iterator[tuple[str, str]]:
        (self._directory / "first.onnx").write_bytes(model)
        ports = free_port(), free_port(), free_port()
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        config = self._directory / "gateway.json"
        config.write_text(json.dumps(configuration(registry, urls[2], ports[:2]), indent=2))
        serve = [self._python, "-m", "gateway"]
        server = [*serve, "model-server", "first.onnx", "--name", MODEL, "--port", str(ports[2])]
        with (
            running(server, f"{urls[2]}/v2/health/ready", self._directory, {}),
            running([*serve, "serve", config.name], f"{urls[1]}/readyz", self._directory, {}),
        ):
            yield urls[0], urls[1]


def main() -> int:
    """The exit status: 0 when each model has come to the end that it deserves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway-python", default=sys.executable, help="the Python that has the gateway installed")
    parser.add_argument("--directory", type=Path, help="for logs and state; default: a temporary one")
    given = parser.parse_args()
    # Whoever ends it ends its servers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as temporary:
        directory = given.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        example = Example(directory.resolve(), given.gateway_python)
        example.run()
    expected = [("good", "promoted"), ("shifted labels", "rolled_back"), ("other units", "refused")]
    expected += [("repaired", "promoted"), ("champion", "4"), ("failures", "0")]
    if example.outcomes != expected:
        print(f"it went otherwise than it should: {example.outcomes}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
