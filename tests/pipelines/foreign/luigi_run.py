"""Runs the Luigi task with Luigi's scheduler, twice: the second time it is complete, or fails by the same verdict."""

from __future__ import annotations

import json
import sys

import luigi
from canary_gateway_luigi import CanaryRollout

url, route, endpoint = sys.argv[1:]
task = CanaryRollout(route=route, version="7", endpoints=[endpoint], model="digits", gateway_url=url)
first = luigi.build([task], local_scheduler=True, detailed_summary=True, log_level="ERROR")
complete = task.complete()
second = luigi.build([task], local_scheduler=True, detailed_summary=True, log_level="ERROR")
print(json.dumps([first.status.name, complete, second.status.name]))
