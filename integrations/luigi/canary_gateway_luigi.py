"""A rollout as a Luigi task: complete when its version is promoted, failed when it is rolled back.

    luigi --module canary_gateway_luigi CanaryRollout --route digits --version 7 --endpoints '["http://digits-7:8000"]'

The rollout is named by the task's own parameters, so that `complete()` says the same in every process, and a scheduler
that was killed while it waited finds the rollout again. A task with other parameters (`attempt`) is another rollout.
"""

from __future__ import annotations

import hashlib

import luigi

from gateway.client import Client, RolloutBody


class RolloutTarget(luigi.Target):
    """Exists when the version was promoted on the route, by any rollout of it."""

    def __init__(self, client: Client, route: str, version: str) -> None:
        """The verdict on ``version``."""
        self._client = client
        self._route = route
        self._version = version

    def exists(self) -> bool:
        """Whether the newest rollout of the version on this route ended in a promotion."""
        rollout = self.rollout()
        return rollout is not None and rollout.promoted

    def rollout(self) -> RolloutBody | None:
        """The newest rollout of the version, if there is one."""
        found = self._client.rollouts(self._route, limit=200).rollouts
        return next((one for one in found if one.model is not None and one.model.version == self._version), None)


class CanaryRollout(luigi.Task):
    """Start the rollout of a version, and wait for its verdict."""

    route = luigi.Parameter()
    version = luigi.Parameter()
    endpoints = luigi.ListParameter()
    model = luigi.Parameter(default="")
    attempt = luigi.IntParameter(default=1, description="Raise it to try a version again that was rolled back.")
    timeout_s = luigi.FloatParameter(default=3600.0, significant=False)
    gateway_url = luigi.Parameter(default="http://127.0.0.1:9900", significant=False)
    gateway_token = luigi.Parameter(
        default="", significant=False, visibility=luigi.parameter.ParameterVisibility.PRIVATE
    )

    def client(self) -> Client:
        """A client of the gateway."""
        return Client(self.gateway_url, self.gateway_token or None, actor="luigi")

    def output(self) -> RolloutTarget:
        """The verdict."""
        return RolloutTarget(self.client(), self.route, self.version)

    def run(self) -> None:
        """Start, or find what was started, and wait. Raises when the version was not promoted."""
        key = hashlib.sha256(self.task_id.encode()).hexdigest()
        client = self.client()
        rollout = client.start_rollout(
            self.route,
            version=self.version,
            endpoints=list(self.endpoints),
            model=self.model,
            retry=self.attempt > 1,
            idempotency_key=f"luigi-{key}",
        )
        rollout = client.wait(rollout, self.timeout_s, self.tell)
        if not rollout.promoted:
            raise RuntimeError(f"{rollout.id} is {rollout.phase}: {rollout.reason}")

    def tell(self, rollout: RolloutBody) -> None:
        """Show where the rollout is in Luigi's own page."""
        self.set_status_message(f"{rollout.phase} at {rollout.canary_percent:g} %: {rollout.reason}")
        self.set_progress_percentage(round(100 * (rollout.step - 1) / max(rollout.steps, 1)))
