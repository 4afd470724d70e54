"""Runs two DAGs with the deferrable operator, the one that blocks, and the sensor, by `dag.test()`."""

from __future__ import annotations

import json
import os
import sys

from airflow.sdk import DAG
from canary_gateway_airflow import CanaryRolloutOperator, CanaryRolloutSensor


def release(route, endpoint):
    with DAG(f"release-{route}", schedule=None) as dag:
        asked = {"route": route, "version": "7", "endpoints": [endpoint], "model": "digits"}
        rollout = CanaryRolloutOperator(task_id="rollout", **asked)
        again = CanaryRolloutOperator(task_id="again", deferrable=False, **asked)
        rollout >> CanaryRolloutSensor(task_id="sensor", rollout=route, poke_interval=1) >> again
    return dag


dags = [release(route, endpoint) for route, endpoint in json.loads(os.environ["CANARIES"]).items()]

if __name__ == "__main__":
    runs = [dag.test() for dag in dags]
    found = [[str(run.state), {t.task_id: str(t.state) for t in run.get_task_instances()}] for run in runs]
    sys.stdout.write("\n" + json.dumps(found) + "\n")
