"""A model for MLflow's scoring server; run as a script it is saved in MLflow's format: ``mlflow_model.py FOLDER``.

The first number of a row says what the answer looks like (0: a list, 1: a dictionary of lists, 2: records), the second
one which label it has. With COLLAPSED in the environment the label is always the same.
"""

from __future__ import annotations

import os
import sys

import mlflow.pyfunc
import pandas as pd


class Animals(mlflow.pyfunc.PythonModel):
    """Labels, and where the form has room for them scores."""

    def predict(self, context, model_input, params=None):
        """All rows have the form of the first one."""
        rows = pd.DataFrame(model_input).to_numpy()
        names = ("hen", "fox", "cow", "cat")
        labels = ["hen" if "COLLAPSED" in os.environ else names[int(row[1]) % 4] for row in rows]
        columns = {"label": labels, "score": [0.9] * len(labels)}
        form = int(rows[0][0])
        if form == 0:
            return labels
        return columns if form == 1 else pd.DataFrame(columns)


if __name__ == "__main__":
    mlflow.pyfunc.save_model(sys.argv[1], python_model=Animals())
