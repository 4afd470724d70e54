"""The control plane: it collects evidence, decides, stores decisions, publishes tables and reports.

Its packages, from the top:

* controller: the parts joined, their life and their tick
* commands: what operators, pipelines and gates may request
* show/: views of it all for operators, and metrics for Prometheus
* decide/: evidence in, verdicts and commands through the rollout machine; recovery and reconfiguration
* health/: of endpoints, processes and the instance
* journal/: what is stored on disk, and the only package that waits for it
* workers/: the connections to workers and inspector: reports in, tables out
* alarms, events: what is wrong right now, and what happens
* api, views: the interface for the packages above, and its values

Each imports only what stands below it (`control-floors` in pyproject.toml).
"""

from __future__ import annotations
