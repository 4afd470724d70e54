"""From a version to endpoints: given ones, a template's, those that a command prints, or a model server of our own.

What was deployed is written to the state directory before it is used (runtime/deployments.py): the supervisor starts
model servers by it, and their endpoints are trusted because the configuration file names the deployer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import time
from pathlib import Path

from gateway.config import grammar
from gateway.config.errors import BadValue
from gateway.config.files import write_whole
from gateway.config.sources import DeployerConfig, ModelServerConfig
from gateway.core.model_version import ModelVersion
from gateway.integrations.errors import DeployError
from gateway.runtime.deployments import NAME, Deployment, Deployments, ServedModel, encoded, read_deployments
from gateway.runtime.programs import ProgramError, run_program

# Below what Linux and others give to outgoing connections, so that none of those takes a model server's port.
_PORTS = (20_000, 32_000)
_LOOK_S = 0.1
_OUTPUT_BYTES_MAX = 64 * 1024


class DeploymentBook:
    """The deployments in the state directory. Every change is on the disk before it is used."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.deployments = read_deployments(state_dir)

    async def put(self, deployment: Deployment) -> None:
        """Keep it. Raises OSError."""
        await self._write(self.deployments.having(deployment))

    async def drop(self, backend: str) -> None:
        """Forget it; its model server is stopped. Raises OSError."""
        if self.deployments.get(backend) is not None:
            await self._write(self.deployments.without(backend))

    async def _write(self, deployments: Deployments) -> None:
        await asyncio.to_thread(write_whole, self._state_dir / NAME, encoded(deployments))
        self.deployments = deployments


async def deploy(
    config: DeployerConfig, route: str, backend: str, model: ModelVersion, file: Path | None, book: DeploymentBook
) -> tuple[str, ...]:
    """The endpoints of the version, deployed and kept in the book. Raises DeployError, OSError."""
    server: ServedModel | None = None
    if config.model_server is not None:
        assert file is not None  # it was downloaded because of this deployer
        server = _server(config.model_server, backend, model, file, book.deployments)
        urls: tuple[str, ...] = (f"http://127.0.0.1:{server.port}",)
    elif config.command is not None:
        urls = await _commanded(config.command, config.command_timeout_s, route, model, file)
    elif config.template is not None:
        urls = (config.template.format(name=model.name, version=model.version, route=route),)
    else:
        urls = tuple(endpoint.url for endpoint in config.endpoints or ())
    try:
        urls = tuple(grammar.endpoint(url).url for url in urls)
    except BadValue as bad:
        raise DeployError(f"the deployer named no usable endpoint: {bad.problem}") from None
    await book.put(Deployment(backend, route, urls, server))
    if config.model_server is not None:
        await _until_ready(urls[0], model, config.model_server.start_timeout_s)
    return urls


def _server(
    config: ModelServerConfig, backend: str, model: ModelVersion, file: Path, known: Deployments
) -> ServedModel:
    before = known.get(backend)
    if before is not None and before.server is not None and before.server.path == str(file):
        return before.server
    return ServedModel(str(file), model.name, model.version, _free_port(), config.threads)


def _free_port() -> int:
    for port in random.sample(range(*_PORTS), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise DeployError("no port is free for a model server")


async def _until_ready(url: str, model: ModelVersion, timeout_s: float) -> None:
    import httpx  # noqa: PLC0415  # where there is no source nothing of this is needed, and it is large

    deadline_s = time.monotonic() + timeout_s
    path = f"/v2/models/{model.name}/versions/{model.version}/ready"
    # Plain HTTP on this machine: there is no certificate.
    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=5.0) as client:  # noqa: S501  # see above
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(path)).is_success:
                    return
            if time.monotonic() >= deadline_s:
                raise DeployError(
                    f"its model server at {url} was not ready within {timeout_s:g} s: the gateway's log says why"
                )
            await asyncio.sleep(_LOOK_S)


async def _commanded(
    arguments: list[str], timeout_s: float, route: str, model: ModelVersion, file: Path | None
) -> tuple[str, ...]:
    about = {**vars(model), "route": route, "path": None if file is None else str(file)}
    try:
        printed = await run_program(arguments, json.dumps(about).encode(), timeout_s)
    except ProgramError as error:
        raise DeployError(str(error)) from None
    return tuple(printed[:_OUTPUT_BYTES_MAX].decode("utf-8", "replace").split())
