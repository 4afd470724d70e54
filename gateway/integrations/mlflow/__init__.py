"""MLflow's model registry as a source of rollouts: plain REST with httpx, nothing of MLflow is imported.

* webhook: the signature of a delivery
* registry: the calls, and what goes wrong with them
* artifact: the files of a version, checked while they are downloaded
* source: what aliases ask for, and what is written back
"""
