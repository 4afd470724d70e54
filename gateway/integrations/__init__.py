"""Registries and pipelines: what inside the gateway speaks with them. Each is optional and alone; httpx is enough.

* deployers: from a version to endpoints
* mlflow: MLflow's model registry as a source of rollouts
* service: the sources at work beside the control plane
"""
