"""The control plane: it sees, decides, keeps, acts and shows.

Its rooms from the top:

* controller: the parts joined, their life and their tick
* commands: what operators, pipelines and gates may request
* show/: views of it all for people, and metrics for Prometheus
* decide/: evidence in, verdicts and commands through the rollout machine; recovery and reconfiguration
* health/: of endpoints, processes and the instance
* journal/: what is kept on disk, and the only one that waits for it
* workers/: the conversation with workers and inspector: reports come up, tables go down
* alarms, events: what is wrong right now, and what happens
* api, views: the interface for the rooms above, and its values

Each imports only what stands below it (`control-floors` in pyproject.toml).
"""

from __future__ import annotations
