"""What a rollout wants of an InferenceService, over real HTTPS: each change once, and none by accident."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config.actuators import KserveConfig
from gateway.control.decide.external import ExternalSplit
from gateway.core.rollout.types import Phase
from gateway.integrations.errors import ExternalError
from gateway.integrations.kserve.actuator import KserveActuator, Memories
from tests.support.certificates import Authority
from tests.support.control import ManualClock
from tests.support.kserve_api import CANARY, Certificates, KubernetesApi

ACTIVE, PROMOTED, ROLLED_BACK = Phase.PROGRESSING, Phase.PROMOTED, Phase.ROLLED_BACK


class World:
    """An API and one actuator after the other, as control processes come and go."""

    def __init__(self, api: KubernetesApi, directory: Path) -> None:
        self.api = api
        self.clock = ManualClock()
        self.told: list[str] = []
        self._directory = directory
        self.configure()

    def configure(self, **changes: Any) -> None:
        config = self.api.config(settle_s=2) | changes
        self._config = KserveConfig.model_validate(config, context=self._directory)
        self.restart()

    def restart(self) -> None:
        memories = Memories(self._directory)
        self.actuator = KserveActuator("digits", self._config, memories, self.clock, self.told.append)

    def step(self, weight_bp: int, phase: Phase = ACTIVE, rollout: str = "digits-1", epoch: int = 7) -> str:
        async def main() -> str:
            try:
                return await self.actuator.step(ExternalSplit(rollout, phase, weight_bp, epoch, 5))
            finally:
                await self.actuator.close()

        return asyncio.run(main())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=[False, True], ids=["serverless", "raw"])
def world(request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates) -> Iterator[World]:
    with KubernetesApi(tmp_path, certificates, raw=request.param) as api:
        yield World(api, tmp_path)


@pytest.fixture
def serverless(tmp_path: Path, certificates: Certificates) -> Iterator[World]:
    with KubernetesApi(tmp_path, certificates) as api:
        yield World(api, tmp_path)


def spec(world: World) -> dict[str, Any]:
    assert world.api.service is not None
    found: dict[str, Any] = world.api.service["spec"]
    return found


def test_the_weight_is_applied_once_and_counts_from_when_it_is_in_force(world: World) -> None:
    for _ in range(3):
        assert world.step(2000) == ""
    assert world.api.share == 0.2 and len(world.api.patches) == 1
    split = world.actuator.splits.now
    assert split is not None and (split.epoch, split.weight_bp) == (7, 2000)
    assert split.began_s == world.clock.wall_now_s + 2, "settle_s later"
    world.clock.wall_now_s += 100
    world.step(5000, epoch=9)
    assert world.api.share == 0.5
    assert world.actuator.splits.of(split.began_s, world.clock.wall_now_s) is not None, "the old one until now"
    assert world.actuator.splits.of(split.began_s, world.clock.wall_now_s + 1) is None
    now = world.actuator.splits.now
    assert now is not None and now.epoch == 9


@pytest.mark.parametrize("crash", [False, True])
def test_a_promotion_is_carried_out_once_whatever_is_deployed_afterwards(world: World, crash: bool) -> None:
    world.step(5000)
    for _ in range(2):
        if crash:
            world.restart()
        assert world.step(0, PROMOTED) == ""
    assert len(world.api.patches) == 2
    if world.api.raw:
        assert "canary" not in spec(world) and spec(world)["predictor"]["name"] == "v2"
        assert spec(world)["predictor"]["model"]["storageUri"] == "s3://models/2"
        assert spec(world)["predictor"]["minReplicas"] == 4, "what the entry does not say stays"
        world.api.apply({"spec": {"canary": [{"trafficPercent": 0, "predictor": {"name": "v3"}}]}})
    else:
        assert "canaryTrafficPercent" not in spec(world)["predictor"] and world.api.share == 1.0
        world.api.apply({"spec": {"predictor": {"canaryTrafficPercent": 0}}})
        world.api.deploy("digits-predictor-00003")
    world.restart()
    world.step(0, PROMOTED)
    assert len(world.api.patches) == 2, "the next version waits for a rollout of its own"


def test_a_rollback_gives_the_canary_nothing(world: World) -> None:
    world.step(5000)
    world.step(0, ROLLED_BACK)
    world.restart()
    world.step(0, ROLLED_BACK)
    assert world.api.share == 0 and len(world.api.patches) == 2
    assert "canary gets nothing" in world.told[-1]


def test_what_no_rollout_of_this_gateway_began_is_left_alone(world: World) -> None:
    for phase in (PROMOTED, ROLLED_BACK, Phase.IDLE):
        assert world.step(0, phase) == ""
    assert world.api.patches == []


def test_a_rollout_after_another_begins_with_the_new_version(serverless: World) -> None:
    serverless.step(5000)
    serverless.step(0, ROLLED_BACK)
    serverless.api.deploy("digits-predictor-00003")
    serverless.step(1000, rollout="digits-2")
    assert spec(serverless)["predictor"]["canaryTrafficPercent"] == 10
    serverless.step(0, PROMOTED, rollout="digits-2")
    assert "canaryTrafficPercent" not in spec(serverless)["predictor"]


def test_a_version_that_took_the_canarys_place_is_never_promoted_and_gets_nothing_at_the_rollback(
    serverless: World,
) -> None:
    serverless.step(2000)
    serverless.api.deploy("digits-predictor-00003")
    for weight_bp, phase in ((5000, ACTIVE), (0, PROMOTED)):
        with pytest.raises(ExternalError, match=f"00003 has taken the place of {CANARY}"):
            serverless.step(weight_bp, phase)
    assert serverless.actuator.splits.now is None
    serverless.step(0, ROLLED_BACK)
    assert spec(serverless)["predictor"]["canaryTrafficPercent"] == 0


def test_an_abort_after_the_promotion_pins_the_previous_revision(serverless: World) -> None:
    serverless.step(5000)
    serverless.step(0, PROMOTED)
    serverless.step(0, ROLLED_BACK)
    assert spec(serverless)["predictor"]["canaryTrafficPercent"] == 0 and serverless.api.share == 0


def test_a_raw_promotion_has_no_way_back_and_says_so(tmp_path: Path, certificates: Certificates) -> None:
    with KubernetesApi(tmp_path, certificates, raw=True) as api:
        world = World(api, tmp_path)
        world.step(5000)
        world.step(0, PROMOTED)
        with pytest.raises(ExternalError, match="apply the former predictor by hand"):
            world.step(0, ROLLED_BACK)


def test_a_canary_that_is_not_ready_gets_nothing_and_what_it_had_is_taken(world: World) -> None:
    world.api.ready = False
    world.api.apply({})
    assert "is not ready: it gets no requests" in world.step(2000)
    assert world.api.patches == []
    world.api.ready = True
    world.api.apply({})
    assert world.step(2000) == "" and world.api.share == 0.2


def test_a_change_by_hand_is_undone_and_nothing_counts_from_when_it_may_have_been(serverless: World) -> None:
    serverless.step(2000)
    serverless.clock.wall_now_s += 10
    serverless.step(2000)
    confirmed_s = serverless.clock.wall_now_s
    serverless.api.apply({"spec": {"predictor": {"canaryTrafficPercent": 90}}})
    serverless.clock.wall_now_s += 10
    serverless.step(2000)
    assert serverless.api.share == 0.2
    splits = serverless.actuator.splits
    assert splits.of(confirmed_s - 5, confirmed_s) is not None
    assert splits.of(confirmed_s, confirmed_s + 5) is None


def test_another_writer_comes_first_and_the_patch_is_made_anew(world: World) -> None:
    world.api.conflicts = 2
    assert world.step(2000) == "" and world.api.share == 0.2
    world.api.conflicts = 100
    with pytest.raises(ExternalError, match="every patch came too late"):
        world.step(5000)


def test_a_split_that_kserve_does_not_carry_out_is_not_in_force(world: World) -> None:
    world.api.works = False
    assert world.step(2000) == "" and world.actuator.splits.now is None
    world.clock.wall_now_s += 100
    assert "KServe was told 20 % for the canary 100 s ago" in world.step(2000)
    world.api.works = True
    world.api.apply({})
    assert world.step(2000) == "" and world.actuator.splits.now is not None


def test_percents_are_whole_and_never_more_than_wanted(serverless: World) -> None:
    serverless.step(1250)
    assert serverless.api.share == 0.12


@pytest.mark.parametrize(
    ("status", "why"), [(403, "give the service account the verbs"), (500, "was answered 500"), (422, "refuses")]
)
def test_a_refusal_says_what_to_do(serverless: World, status: int, why: str) -> None:
    serverless.step(2000)
    serverless.api.fail = status
    with pytest.raises(ExternalError, match=why):
        serverless.step(0, ROLLED_BACK)
    assert serverless.actuator.splits.now is None
    serverless.api.fail = None
    serverless.step(0, ROLLED_BACK)
    assert serverless.api.share == 0


def test_a_renewed_token_is_used_and_a_lost_one_is_said(serverless: World) -> None:
    serverless.step(2000)
    serverless.api.token = "renewed"
    with pytest.raises(ExternalError, match="the token is not accepted"):
        serverless.step(5000)
    serverless.api.token_file.write_text("renewed")
    assert serverless.step(5000) == ""
    serverless.api.token_file.unlink()
    with pytest.raises(ExternalError, match="No such file"):
        serverless.step(5000)


def test_an_api_of_another_authority_is_not_trusted(serverless: World, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    serverless.configure(ca_file=str(other.pair.cert))
    with pytest.raises(ExternalError, match="certificate verify failed"):
        serverless.step(2000)


def test_services_that_have_nothing_to_roll_out_are_refused(world: World) -> None:
    if world.api.raw:
        world.api.apply({"spec": {"canary": None}})
    else:
        world.api.apply({"spec": {"predictor": {"canaryTrafficPercent": None}}})
    with pytest.raises(ExternalError, match=r"apply the new model"):
        world.step(2000)
    assert world.api.patches == []
    world.api.service = {"metadata": {}, "spec": {}}
    with pytest.raises(ExternalError, match="cannot be read"):
        world.step(2000)
    world.api.service = None
    with pytest.raises(ExternalError, match="there is no such InferenceService"):
        world.step(2000)
