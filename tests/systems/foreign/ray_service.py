"""An application on Ray Serve: ``ray_service.py PORT``. The first number says which animal it is."""

from __future__ import annotations

import sys

import ray
from ray import serve
from starlette.requests import Request

NAMES = ("hen", "fox", "cow", "cat")


@serve.deployment
class Animals:
    """One replica."""

    async def __call__(self, request: Request) -> dict:
        """A label and its score; to a GET, that it is there."""
        if request.method == "GET":
            return {"ready": True}
        body = await request.json()
        return {"label": NAMES[int(body["features"][0]) % 4], "score": 0.9}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Animals.bind(), route_prefix="/animals", blocking=True)
