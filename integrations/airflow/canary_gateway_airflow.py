"""Rollouts for Airflow: a hook for the connection, a deferrable operator with its trigger, and a sensor.

The connection (default `canary_gateway`) is of type http: host, port, schema http or https, the token as password.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.exceptions import AirflowException
from airflow.sdk import BaseHook, BaseOperator, BaseSensorOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from gateway.client import ApiError, AsyncClient, Client, RolloutBody, WaitTimeoutError

_KILLED = "the Airflow task was killed"


class CanaryGatewayHook(BaseHook):
    """The gateway's admin API, by an Airflow connection."""

    conn_name_attr = "gateway_conn_id"
    default_conn_name = "canary_gateway"
    conn_type = "http"
    hook_name = "Canary gateway"

    def __init__(self, gateway_conn_id: str = default_conn_name) -> None:
        """The connection of this id."""
        super().__init__()
        self.gateway_conn_id = gateway_conn_id

    def address(self) -> tuple[str, str | None]:
        """URL and token."""
        connection = self.get_connection(self.gateway_conn_id)
        host = connection.host or "127.0.0.1"
        url = host if "://" in host else f"{connection.schema or 'http'}://{host}"
        return (f"{url}:{connection.port}" if connection.port else url), connection.password or None

    def get_conn(self) -> Client:
        """A client."""
        url, token = self.address()
        return Client(url, token, actor="airflow")


class RolloutTrigger(BaseTrigger):
    """Waits for a rollout's end in the triggerer."""

    def __init__(self, url: str, token: str | None, rollout_id: str, timeout_s: float | None) -> None:
        """The rollout of this id."""
        super().__init__()
        self.url = url
        self.token = token
        self.rollout_id = rollout_id
        self.timeout_s = timeout_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How another process makes the same."""
        kept = {"url": self.url, "token": self.token, "rollout_id": self.rollout_id, "timeout_s": self.timeout_s}
        return f"{type(self).__module__}.{type(self).__qualname__}", kept

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: the rollout as it ended, or what went wrong."""
        async with AsyncClient(self.url, self.token, actor="airflow") as client:
            try:
                ended = await client.wait(self.rollout_id, self.timeout_s)
                yield TriggerEvent({"rollout": dataclasses.asdict(ended)})
            except WaitTimeoutError as timeout:
                yield TriggerEvent({"rollout": dataclasses.asdict(timeout.rollout), "error": str(timeout)})
            except ApiError as error:
                yield TriggerEvent({"error": str(error)})

    async def on_kill(self) -> None:
        """The deferred task is killed by a user: all requests go to stable. A triggerer that stops changes nothing."""
        async with AsyncClient(self.url, self.token, actor="airflow") as client:
            await client.abort(self.rollout_id, _KILLED)


class CanaryRolloutOperator(BaseOperator):
    """Start a rollout and wait for its verdict; XCom has phase, reason and id. Killed, it aborts the rollout.

    ``version`` and ``endpoints`` bring a version along; without them the configured canary is rolled out.
    """

    template_fields: Sequence[str] = ("route", "version", "endpoints", "model", "uri", "digest", "reason")

    def __init__(
        self,
        *,
        route: str,
        version: str | None = None,
        endpoints: Sequence[str] = (),
        model: str = "",
        uri: str = "",
        digest: str = "",
        retry_rolled_back: bool = False,
        reason: str = "",
        wait_timeout_s: float | None = None,
        deferrable: bool = True,
        gateway_conn_id: str = CanaryGatewayHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        """See the class."""
        super().__init__(**kwargs)
        self.route = route
        self.version = version
        self.endpoints = endpoints
        self.model = model
        self.uri = uri
        self.digest = digest
        self.retry_rolled_back = retry_rolled_back
        self.reason = reason
        self.wait_timeout_s = wait_timeout_s
        self.deferrable = deferrable
        self.gateway_conn_id = gateway_conn_id
        self.rollout_id: str | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        """Start the rollout, or find the one that this task instance started before; then wait."""
        hook = CanaryGatewayHook(self.gateway_conn_id)
        client = hook.get_conn()
        rollout = client.start_rollout(
            self.route,
            version=self.version,
            endpoints=list(self.endpoints),
            model=self.model,
            uri=self.uri,
            digest=self.digest,
            retry=self.retry_rolled_back,
            reason=self.reason,
            idempotency_key=f"airflow-{self.dag_id}-{self.task_id}-{context['run_id']}".replace(" ", "_")[:255],
        )
        self.rollout_id = rollout.id
        if not self.deferrable:
            return self._verdict(client.wait(rollout, self.wait_timeout_s, self._tell))
        url, token = hook.address()
        trigger = RolloutTrigger(url, token, rollout.id, self.wait_timeout_s)
        self.defer(trigger=trigger, method_name="resume_with_verdict")
        raise AssertionError("defer() does not return")

    def resume_with_verdict(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """The trigger has fired."""
        if "error" in event:
            raise AirflowException(event["error"])
        rollout = event["rollout"]
        return _verdict(rollout["id"], rollout["phase"], rollout["reason"])

    def on_kill(self) -> None:
        """The task is killed: all requests go to stable."""
        if self.rollout_id is not None:
            CanaryGatewayHook(self.gateway_conn_id).get_conn().abort(self.rollout_id, _KILLED)

    def _tell(self, rollout: RolloutBody) -> None:
        self.log.info("%s at %g %%: %s", rollout.phase, rollout.canary_percent, rollout.reason)

    def _verdict(self, rollout: RolloutBody) -> dict[str, Any]:
        return _verdict(rollout.id, rollout.phase, rollout.reason)


class CanaryRolloutSensor(BaseSensorOperator):
    """Waits until the latest rollout of a route (or a rollout's id) has ended; fails unless it was promoted."""

    template_fields: Sequence[str] = ("rollout",)

    def __init__(
        self, *, rollout: str, gateway_conn_id: str = CanaryGatewayHook.default_conn_name, **kwargs: Any
    ) -> None:
        """``rollout``: a rollout's id, or a route's name."""
        super().__init__(**kwargs)
        self.rollout = rollout
        self.gateway_conn_id = gateway_conn_id

    def poke(self, context: Any) -> bool:
        """Whether it has ended."""
        found = CanaryGatewayHook(self.gateway_conn_id).get_conn().find(self.rollout)
        if found.ended:
            _verdict(found.id, found.phase, found.reason)
        return found.ended


def _verdict(rollout_id: str, phase: str, reason: str) -> dict[str, Any]:
    """What XCom gets of a promotion; anything else fails the task."""
    if phase != "PROMOTED":
        raise AirflowException(f"rollout {rollout_id} is {phase}: {reason}")
    return {"rollout": rollout_id, "phase": phase, "reason": reason}
