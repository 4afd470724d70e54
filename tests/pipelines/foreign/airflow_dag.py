"""Runs two DAGs with the deferrable operator, the one that blocks, and the sensor, by `dag.test()`; then kills."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta

from airflow.sdk import DAG
from canary_gateway_airflow import CanaryGatewayHook, CanaryRolloutOperator, CanaryRolloutSensor, RolloutTrigger


def release(route, endpoint):
    with DAG(f"release-{route}", schedule=None) as dag:
        asked = {"route": route, "version": "7", "endpoints": [endpoint], "model": "digits"}
        rollout = CanaryRolloutOperator(task_id="rollout", **asked)
        again = CanaryRolloutOperator(task_id="again", deferrable=False, **asked)
        rollout >> CanaryRolloutSensor(task_id="sensor", rollout=route, poke_interval=1) >> again
    return dag


def killed(endpoint):
    """A task that Airflow kills while it waits."""
    with DAG("killed", schedule=None) as dag:
        CanaryRolloutOperator(
            task_id="rollout",
            route="good",
            version="8",
            endpoints=[endpoint],
            deferrable=False,
            execution_timeout=timedelta(seconds=2),
        )
    return dag


def kill_deferred(endpoint):
    """What the triggerer does when a user kills a deferred task."""
    hook = CanaryGatewayHook()
    rollout = hook.get_conn().start_rollout("good", version="9", endpoints=[endpoint])
    asyncio.run(RolloutTrigger(*hook.address(), rollout.id, None).on_kill())


def verdict():
    found = CanaryGatewayHook().get_conn().find("good")
    return [found.phase, found.reason]


canaries = json.loads(os.environ["CANARIES"])
dags = [release(route, endpoint) for route, endpoint in canaries.items()]
killed_dag = killed(canaries["good"])

if __name__ == "__main__":
    runs = [dag.test() for dag in dags]
    found = [[str(run.state), {t.task_id: str(t.state) for t in run.get_task_instances()}] for run in runs]
    ends = [[str(killed_dag.test().state), *verdict()]]
    kill_deferred(canaries["good"])
    found.append([*ends, verdict()])
    sys.stdout.write("\n" + json.dumps(found) + "\n")
