"""Runs the compiled component with kfp.local, as a process of this environment."""

from __future__ import annotations

import json
import sys

from kfp import components, local

local.init(runner=local.SubprocessRunner(use_venv=False), raise_on_error=False)
component, url, route, endpoint = sys.argv[1:]
rollout = components.load_component_from_file(component)
task = rollout(gateway_url=url, route=route, version="7", endpoints=[endpoint], model="digits")
print(json.dumps(task.outputs.get("Output")))
