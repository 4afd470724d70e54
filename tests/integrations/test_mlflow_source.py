"""What an alias asks for and what is written back, whatever the registry and the moment of a crash."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config.sources import DeployerConfig, MlflowConfig
from gateway.core.model_version import ModelVersion
from gateway.integrations.deployers import DeploymentBook
from gateway.integrations.errors import RegistryError
from gateway.integrations.mlflow.registry import Registry
from gateway.integrations.mlflow.source import MlflowSource
from gateway.integrations.rollouts import RouteRollouts
from tests.support.route_gateway import RouteGateway

_SPEC = importlib.util.spec_from_file_location("registry_server", Path(__file__).with_name("registry_server.py"))
assert _SPEC is not None and _SPEC.loader is not None
server = sys.modules["registry_server"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(server)

DIGEST = "sha256:" + hashlib.sha256(server.ONNX).hexdigest()


class World:
    """A registry, a gateway, and as many sources one after the other as the control process has lives."""

    def __init__(self, registry: Any, directory: Path, **changes: Any) -> None:
        self.registry = registry
        self.gateway = RouteGateway()
        self._directory = directory
        self._config = MlflowConfig(
            uri=registry.url,
            model="digits",
            route="digits",
            deployer=DeployerConfig(command=["/bin/echo", "http://127.0.0.1:9"]),
            **{"timeout_s": 5.0} | changes,
        )

    def step(self) -> None:
        """One look by a source that was just born."""
        asyncio.run(self._step())

    async def _step(self) -> None:
        config = self._config
        registry = Registry(config.uri, config.model, config.timeout_s, None)
        book = DeploymentBook(self._directory)
        files = self._directory / "models"
        rollouts = RouteRollouts(config.route, config.deployer, self.gateway, book, files, "source mlflow:digits")
        source = MlflowSource(config, registry, rollouts)
        try:
            await source.step()
        finally:
            await source.close()

    def challenge(self, number: str) -> None:
        self.registry.aliases["challenger"] = number


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with server.RegistryServer() as registry:
        for number in ("1", "2", "3"):
            registry.add(number)
        registry.aliases["champion"] = "1"
        yield World(registry, tmp_path)


def test_a_promotion_moves_the_champion(world: World) -> None:
    world.challenge("2")
    world.step()
    view = world.gateway.views[0]
    assert view.model == ModelVersion("digits", "2", "models:/digits/2", DIGEST)
    world.step()
    world.gateway.end("PROMOTED")
    world.step()
    world.step()
    assert world.registry.aliases == {"champion": "2"}
    assert world.registry.tags["2"]["canary.verdict"] == "promoted"
    assert world.registry.tags["2"]["canary.report"] == "http://gateway/api/v1/rollouts/digits-1/report"
    assert world.gateway.told == [("started", "2"), ("written_back", "2")]


def test_a_rollback_leaves_the_champion_and_another_try_must_be_asked_for(world: World) -> None:
    world.challenge("2")
    world.step()
    world.gateway.end("ROLLED_BACK")
    world.step()
    world.step()
    assert world.registry.aliases == {"champion": "1"} and len(world.gateway.views) == 1
    assert world.registry.tags["2"]["canary.reason"] == "it was ROLLED_BACK"
    world.challenge("2")
    world.step()
    assert len(world.gateway.views) == 2


@pytest.mark.parametrize("phase", ["PROMOTED", "ROLLED_BACK"])
def test_a_crash_between_any_two_calls_repeats_nothing_and_forgets_nothing(world: World, phase: str) -> None:
    registry = world.registry
    world.challenge("2")
    for stage in ("begin", "end"):
        for allowed in range(30):
            registry.calls, registry.calls_max = 0, allowed
            try:
                world.step()
                break
            except RegistryError:
                continue
        else:
            pytest.fail(f"{stage}: never done")
        registry.calls_max = 1 << 30
        world.step()
        assert [view.canary for view in world.gateway.views] == ["digits-2"]
        if stage == "begin":
            world.gateway.end(phase)
    promoted = phase == "PROMOTED"
    assert registry.aliases == {"champion": "2" if promoted else "1"}
    assert registry.tags["2"]["canary.verdict"] == phase.lower()
    assert registry.tags["2"]["canary.rollout"] == "digits-1"


@pytest.mark.parametrize("answer", [(500, b"{}"), (200, b"<html>login</html>"), (503, b""), (200, b"[]")])
def test_a_registry_that_answers_nonsense_starts_nothing(world: World, answer: tuple[int, bytes]) -> None:
    world.challenge("2")
    world.registry.fail = answer
    with pytest.raises(RegistryError):
        world.step()
    assert world.gateway.views == [] and world.registry.tags["2"] == {}
    world.registry.fail = None
    world.step()
    assert len(world.gateway.views) == 1


def test_a_registry_that_is_away_starts_nothing(tmp_path: Path) -> None:
    with server.RegistryServer() as registry:
        world = World(registry, tmp_path)
    with pytest.raises(RegistryError, match="ConnectError"):
        world.step()


@pytest.mark.parametrize(
    ("files", "tags", "why"),
    [
        ({"MLmodel": server.mlmodel("sklearn")}, {}, "no ONNX model"),
        ({"MLmodel": server.mlmodel()}, {}, "model.onnx is missing"),
        ({}, {}, "MLmodel is missing"),
        ({"MLmodel": b"a: [", "model.onnx": b"x"}, {}, "cannot be read"),
        ({"MLmodel": server.mlmodel(data="../../etc/passwd")}, {}, "outside the version"),
        ({"MLmodel": server.mlmodel(inputs="[]"), "model.onnx": b"x"}, {}, "its inputs are []"),
        ({"MLmodel": server.mlmodel(), "model.onnx": b"x" * 2000}, {}, "more than 1000 bytes"),
        (None, {"canary_digest": "sha256:" + "0" * 64}, "the digest of"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(
    tmp_path: Path, files: dict[str, bytes] | None, tags: dict[str, str], why: str
) -> None:
    with server.RegistryServer() as registry:
        registry.add("1")
        registry.add("2", files, **tags)
        world = World(registry, tmp_path, artifact_bytes_max=1000)
        world.challenge("2")
        world.step()
        world.step()
        assert world.gateway.views == [] and registry.aliases == {}
        assert registry.tags["2"]["canary.verdict"] == "refused" and why in registry.tags["2"]["canary.reason"]
        assert world.gateway.told == [("refused", "2")]


def test_a_transfer_that_was_cut_is_tried_again(world: World) -> None:
    world.challenge("2")
    world.registry.size_shown = 100
    with pytest.raises(RegistryError, match="100 bytes"):
        world.step()
    assert world.gateway.views == [] and world.registry.aliases["challenger"] == "2"


def test_an_alias_that_moves_twice_in_a_second(world: World) -> None:
    """The plan says what happens: the first rollout ends first, or it gives way. No version between starts one."""
    world.challenge("2")
    world.step()
    world.challenge("1")
    world.challenge("3")
    world.step()
    assert [view.canary for view in world.gateway.views] == ["digits-2"]
    world.gateway.end("ROLLED_BACK")
    world.step()
    assert [view.canary for view in world.gateway.views] == ["digits-2", "digits-3"]
    assert world.registry.tags["2"]["canary.verdict"] == "rolled_back" and world.registry.tags["1"] == {}
    world.gateway.refuses = False
    world.challenge("2")
    world.step()
    world.step()
    assert [(view.canary, view.phase) for view in world.gateway.views][1:] == [
        ("digits-3", "WITHDRAWN"),
        ("digits-2", "PROGRESSING"),
    ]
    assert world.registry.tags["3"]["canary.verdict"] == "withdrawn"
    assert world.registry.aliases["challenger"] == "2"


def test_a_champion_moved_by_hand_goes_to_the_promoted_version(world: World) -> None:
    world.challenge("2")
    world.step()
    world.registry.aliases["champion"] = "3"
    world.gateway.end("PROMOTED")
    world.step()
    assert world.registry.aliases == {"champion": "2"}
    world.registry.aliases["champion"] = "3"
    world.step()
    assert world.registry.aliases == {"champion": "3"}, "afterwards it is the registry's own"


def test_a_version_deleted_on_canary_keeps_its_rollout(world: World) -> None:
    world.challenge("2")
    world.step()
    del world.registry.aliases["challenger"], world.registry.tags["2"]
    world.step()
    assert world.gateway.views[0].phase == "PROGRESSING"
    world.gateway.end("PROMOTED")
    world.step()
    assert world.registry.aliases == {"champion": "1"} and ("deleted", "2") in world.gateway.told


def test_the_champion_set_as_challenger_is_no_rollout(world: World) -> None:
    world.challenge("2")
    world.step()
    world.gateway.end("PROMOTED")
    world.step()
    world.challenge("2")
    world.step()
    assert world.registry.aliases == {"champion": "2"} and len(world.gateway.views) == 1


def test_a_command_that_fails_refuses_the_version(tmp_path: Path) -> None:
    with server.RegistryServer() as registry:
        registry.add("2")
        world = World(registry, tmp_path)
        world._config = world._config.model_copy(update={"deployer": DeployerConfig(command=["/bin/false"])})  # noqa: SLF001  # the world is this test's own
        world.challenge("2")
        world.step()
        assert "exited with status 1" in registry.tags["2"]["canary.reason"]
