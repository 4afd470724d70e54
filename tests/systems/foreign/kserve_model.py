"""A model for KServe's server: ``kserve_model.py PORT``. The first number of a row says which animal it is.

COLLAPSED in the environment: it is always the same one.
"""

from __future__ import annotations

import os
import sys

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

NAMES = ("hen", "fox", "cow", "cat")


class Animals(Model):
    """The protocol V1: instances in, predictions out; and V2: tensors in, tensors out."""

    def predict(self, payload, headers=None, response_headers=None):
        """One label for each row."""
        if isinstance(payload, InferRequest):
            labels = [label(row[0]) for row in payload.inputs[0].as_numpy()]
            output = InferOutput("label", [len(labels)], "BYTES", labels)
            return InferResponse(payload.id or "none", self.name, [output])
        return {"predictions": [label(row[0]) for row in payload["instances"]]}


def label(number):
    """The animal."""
    return NAMES[0 if os.environ.get("COLLAPSED") else int(number) % 4]


if __name__ == "__main__":
    model = Animals("animals")
    model.ready = True
    ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, workers=1).start([model])
