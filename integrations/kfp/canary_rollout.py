"""A Kubeflow Pipelines component that starts a rollout and waits.

`python canary_rollout.py` writes `component.yaml` and a pipeline beside this file. The component's code runs in
a container of its own, so everything that it needs is inside of the function.
"""

from pathlib import Path

from kfp import compiler, dsl


@dsl.component(base_image="python:3.12-slim", packages_to_install=["canary-gateway"])
def canary_rollout(
    gateway_url: str,
    route: str,
    version: str,
    endpoints: list,
    model: str = "",
    uri: str = "",
    digest: str = "",
    token_env: str = "GATEWAY_TOKEN",
    timeout_s: float = 3600.0,
    idempotency_key: str = "",
) -> str:
    """Roll a version out and return its verdict; a version that is not promoted fails the task."""
    import os

    from gateway.client import Client

    with Client(gateway_url, os.environ.get(token_env) or None, actor="kubeflow pipelines") as client:
        rollout = client.start_rollout(
            route,
            version=version,
            endpoints=endpoints,
            model=model,
            uri=uri,
            digest=digest,
            idempotency_key=idempotency_key or None,
        )
        rollout = client.wait(
            rollout, timeout_s, lambda now: print(f"{now.phase} at {now.canary_percent:g} %: {now.reason}", flush=True)
        )
    if not rollout.promoted:
        raise RuntimeError(f"rollout {rollout.id} is {rollout.phase}: {rollout.reason}")
    return rollout.phase


@dsl.pipeline(name="canary-rollout", description="Roll out one version of a model.")
def canary_pipeline(gateway_url: str, route: str, version: str, endpoints: list) -> str:
    """The component alone; yours trains and registers before it."""
    task = canary_rollout(
        gateway_url=gateway_url,
        route=route,
        version=version,
        endpoints=endpoints,
        idempotency_key=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )
    task.set_caching_options(enable_caching=False)
    return task.output


if __name__ == "__main__":
    here = Path(__file__).parent
    compiler.Compiler().compile(canary_rollout, str(here / "component.yaml"))
    compiler.Compiler().compile(canary_pipeline, str(here / "pipeline.yaml"))
