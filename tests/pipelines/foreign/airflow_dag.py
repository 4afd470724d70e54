"""Runs a DAG with the deferrable operator, the one that blocks, and the sensor, by `dag.test()`."""

from __future__ import annotations

import json
import os
import sys

from airflow.sdk import DAG
from canary_gateway_airflow import CanaryRolloutOperator, CanaryRolloutSensor

route, endpoint = os.environ["CANARY_ROUTE"], os.environ["CANARY_ENDPOINT"]
with DAG("release", schedule=None) as dag:
    rollout = CanaryRolloutOperator(task_id="rollout", route=route, version="7", endpoints=[endpoint], model="digits")
    again = CanaryRolloutOperator(
        task_id="again", route=route, version="7", endpoints=[endpoint], model="digits", deferrable=False
    )
    rollout >> CanaryRolloutSensor(task_id="sensor", rollout=route, poke_interval=1) >> again

if __name__ == "__main__":
    run = dag.test()
    states = {task.task_id: str(task.state) for task in run.get_task_instances()}
    sys.stdout.write("\n" + json.dumps([str(run.state), states]) + "\n")
