"""A model for MLServer: the class is the sum of the input's numbers modulo ten."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Digits(MLModel):
    """Loaded under the name that its settings give it."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One class."""
        digit = int(sum(payload.inputs[0].data.root)) % 10
        output = ResponseOutput(name="class", shape=[1], datatype="INT64", data=[digit])
        return InferenceResponse(model_name=self.name, outputs=[output])
