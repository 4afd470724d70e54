"""What the gateway's deployers have made: backends that sources brought, and the model servers to be kept running.

The file in the state directory is the whole truth: control writes it, the supervisor follows it. So model servers
outlive the control process, and are started again with the gateway. It is replaced whole; one that cannot be read is
an empty one, said once by who reads it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

NAME = "deployments.json"


class ServedModel(msgspec.Struct, frozen=True):
    """A model server on this machine: the file, what it is served as, and where."""

    path: str
    name: str
    version: str
    port: int
    threads: int = 1


class Deployment(msgspec.Struct, frozen=True):
    """One backend of a source: its endpoints, and the model server behind them if it is ours."""

    backend: str
    route: str
    endpoints: tuple[str, ...]
    server: ServedModel | None = None


class Deployments(msgspec.Struct, frozen=True):
    """All of them."""

    deployed: tuple[Deployment, ...] = ()

    def get(self, backend: str) -> Deployment | None:
        """The deployment of that backend."""
        return next((one for one in self.deployed if one.backend == backend), None)

    def having(self, deployment: Deployment) -> Deployments:
        """With this one in place of another of the same backend."""
        return Deployments((*self.without(deployment.backend).deployed, deployment))

    def without(self, backend: str) -> Deployments:
        """Without that backend's."""
        return Deployments(tuple(one for one in self.deployed if one.backend != backend))

    @property
    def endpoints(self) -> frozenset[str]:
        """The addresses that a configured deployer stands for."""
        return frozenset(url for one in self.deployed for url in one.endpoints)


def read_deployments(state_dir: Path) -> Deployments:
    """What the state directory says; nothing where there is none, or none that can be read."""
    try:
        return msgspec.json.decode((state_dir / NAME).read_bytes(), type=Deployments)
    except (OSError, msgspec.DecodeError):
        return Deployments()


def encoded(deployments: Deployments) -> bytes:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(deployments))
