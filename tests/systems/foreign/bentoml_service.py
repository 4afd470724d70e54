"""A service for BentoML. The first number says which animal it is."""

from __future__ import annotations

import bentoml

NAMES = ("hen", "fox", "cow", "cat")


@bentoml.service
class Animals:
    """One API, whose name is its path."""

    @bentoml.api
    def classify(self, features: list[float]) -> dict:
        """A label and its score."""
        return {"label": NAMES[int(features[0]) % 4], "score": 0.9}
