"""The bundled models: signatures, metadata, the accuracies that their cards claim, and training that repeats them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from gateway import bundled

ACCURACY = {"digits-logreg": 0.97, "digits-svm": 0.99, "digits-tree": 0.77, "digits-misscaled": 0.10}


@pytest.mark.parametrize("name", bundled.NAMES)
def test_every_model_has_the_same_signature_and_names_itself(name: str) -> None:
    session = onnxruntime.InferenceSession(bundled.path(name), providers=["CPUExecutionProvider"])
    ports = [(port.name, port.type, port.shape) for port in (*session.get_inputs(), *session.get_outputs())]
    assert ports == [
        ("pixels", "tensor(float)", [None, 64]),
        ("label", "tensor(int64)", [None]),
        ("probabilities", "tensor(float)", [None, 10]),
    ]
    properties = session.get_modelmeta().custom_metadata_map
    assert (properties["name"], properties["version"]) == (name, "1") and properties["description"]


@pytest.mark.parametrize("name", bundled.NAMES)
def test_accuracy_is_what_the_card_says(name: str) -> None:
    pixels, labels = bundled.heldout()
    session = onnxruntime.InferenceSession(bundled.path(name), providers=["CPUExecutionProvider"])
    answers, probabilities = session.run(["label", "probabilities"], {"pixels": np.array(pixels, np.float32)})
    accuracy = float(np.mean(answers == labels))
    assert accuracy == pytest.approx(ACCURACY[name], abs=0.005)
    card = bundled.card(name).read_text(encoding="utf-8")
    assert f"| Accuracy | {accuracy:.3f} on the {len(labels)} held-out images" in card
    assert f"| File | {bundled.path(name).stat().st_size:,} bytes" in card
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_held_out_inputs_are_raw_greys_of_every_digit() -> None:
    pixels, labels = bundled.heldout()
    assert len(pixels) == len(labels) == 500
    assert all(len(image) == 64 and all(type(grey) is int and 0 <= grey <= 16 for grey in image) for image in pixels)
    assert np.bincount(labels).min() >= 45


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    for find in (bundled.path, bundled.card):
        with pytest.raises(ValueError, match="no bundled model is called 'cats'; there are: digits-logreg"):
            find("cats")


def test_every_file_beside_the_models_is_known() -> None:
    folder = Path(bundled.__file__).parent
    assert {path.stem for path in folder.glob("*.onnx")} == set(bundled.NAMES)
    assert {path.stem for path in folder.glob("*.md")} == set(bundled.NAMES)


def test_training_again_gives_the_same_accuracies() -> None:
    pytest.importorskip("sklearn", reason="training needs the `train` extra")
    pytest.importorskip("skl2onnx", reason="training needs the `train` extra")
    command = [sys.executable, "-m", "gateway.bundled.train", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("accuracy matches") == len(bundled.NAMES)
