"""A model for KServe's server: ``kserve_model.py PORT``. The first number of a row says which animal it is."""

from __future__ import annotations

import sys

from kserve import Model, ModelServer

NAMES = ("hen", "fox", "cow", "cat")


class Animals(Model):
    """The protocol V1: instances in, predictions out."""

    def predict(self, payload, headers=None, response_headers=None):
        """One label for each row."""
        return {"predictions": [NAMES[int(row[0]) % 4] for row in payload["instances"]]}


if __name__ == "__main__":
    model = Animals("animals")
    model.ready = True
    ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, workers=1).start([model])
