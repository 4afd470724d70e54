"""The bundled digit models: ONNX files, their cards, and held-out inputs with labels.

This folder is `models/` at the top of the repository and `gateway.bundled` inside the package, so that the files travel
in the wheel and nothing depends on where a checkout lies. Nothing here needs scikit-learn except `train`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

NAMES = ("digits-logreg", "digits-svm", "digits-tree", "digits-misscaled")
"""Every bundled model: the stable one, a better canary, a visibly worse one, a silently broken one."""

TEXT_NAMES = ("text-bigram", "text-trigram")
"""The text models: the stable one, and a canary that looks one word further back."""

_HERE = Path(__file__).parent


class Heldout(NamedTuple):
    """Inputs that no model was trained on: `pixels[i]` are 64 greys (0..16, row by row), `labels[i]` is the digit."""

    pixels: list[list[int]]
    labels: list[int]


def path(name: str) -> Path:
    """Where the ONNX file of a bundled model lies; ValueError names the bundled models for any other name."""
    return _file(name, ".onnx")


def text_path(name: str) -> Path:
    """Where the file of a bundled text model lies; ValueError as for `path`."""
    if name not in TEXT_NAMES:
        raise ValueError(f"no bundled text model is called {name!r}; there are: {', '.join(TEXT_NAMES)}")
    return _HERE / f"{name}.json"


def prompts() -> list[str]:
    """The sentences that the text models were trained on."""
    return (_HERE / "text.txt").read_text(encoding="utf-8").splitlines()


def card(name: str) -> Path:
    """Where the model card (markdown) of a bundled model lies; ValueError as for `path`."""
    return _file(name, ".md")


def heldout() -> Heldout:
    """Read the held-out inputs and their labels."""
    content = json.loads((_HERE / "heldout.json").read_text(encoding="utf-8"))
    return Heldout(content["pixels"], content["labels"])


def _file(name: str, suffix: str) -> Path:
    if name not in NAMES:
        raise ValueError(f"no bundled model is called {name!r}; there are: {', '.join(NAMES)}")
    return _HERE / f"{name}{suffix}"
