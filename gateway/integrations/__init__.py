"""Registries and pipelines: what inside the gateway speaks with them. Each is optional and alone; httpx is enough.

* deployers: from a version to endpoints
* mlflow: MLflow's model registry as a source of rollouts
* dvc: a Git repository with DVC pins and GTO tags as one
* rollouts, download, http: what sources share
* service: the sources at work beside the control plane
"""
