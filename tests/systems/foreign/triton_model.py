"""A model for Triton's Python backend: four probabilities, the largest at the place that the first number says.

With COLLAPSED in the environment it is always the first place. SITE_PACKAGES is where numpy is.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.environ["SITE_PACKAGES"])

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """The name that Triton looks for."""

    def execute(self, requests):
        """One answer for each request."""
        answers = []
        for request in requests:
            x = triton.get_input_tensor_by_name(request, "x").as_numpy()
            places = 0 * x[:, 0].astype(int) if "COLLAPSED" in os.environ else x[:, 0].astype(int) % 4
            probabilities = np.full((len(x), 4), 0.01, np.float32)
            probabilities[np.arange(len(x)), places] = 0.9 + 0.05 * x[:, 1]
            answers.append(triton.InferenceResponse([triton.Tensor("probabilities", probabilities)]))
        return answers
