"""Registers model versions in an MLflow server, as a training pipeline does; runs in MLflow's environment.

    register.py TRACKING_URI MODEL KIND=FILE...

KIND is onnx, other (other inputs), digest (tagged with a wrong digest) or text (no ONNX at all).
Prints the versions' numbers.
"""

from __future__ import annotations

import json
import sys

import mlflow
import numpy as np
import onnx
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec


def signature(name):
    spec = TensorSpec(np.dtype("float32"), (-1, 64), name)
    return ModelSignature(inputs=Schema([spec]))


class Text(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input


def main(uri, model, *kinds):
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    numbers = []
    for given in kinds:
        kind, _, file = given.partition("=")
        if kind == "text":
            info = mlflow.pyfunc.log_model(name="model", python_model=Text(), pip_requirements=[])
        else:
            inputs = signature("pixels" if kind != "other" else "image")
            info = mlflow.onnx.log_model(onnx.load(file), name="model", signature=inputs, pip_requirements=[])
        version = mlflow.register_model(info.model_uri, model).version
        if kind == "digest":
            client.set_model_version_tag(model, version, "canary.digest", "sha256:" + "0" * 64)
        numbers.append(str(version))
    print(json.dumps(numbers))


main(*sys.argv[1:])
