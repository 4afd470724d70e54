"""Train the bundled digit models and export them to ONNX, the same bytes every time.

Data: the handwritten digits that scikit-learn ships (1797 images of 8 by 8 greys, 0..16), split once, stratified and
seeded: 1297 to train on, 500 held out. The held-out part is written beside the models and never trained on.

Reproducible because of three rules:

1. every random choice has the seed `SEED`, and the split is part of the recipe;
2. linear algebra runs on one thread, so that sums are added in one order;
3. the ONNX graph gets fixed names, operator sets in a fixed order and protobuf's deterministic serialisation.

Another release of scikit-learn or skl2onnx, or another processor, may still round otherwise; `--check` tells.

    python models/train.py            retrain and overwrite the files beside this script
    python models/train.py --check    retrain elsewhere and compare accuracies and bytes; exit 1 on a worse match
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

SEED = 2026
HELDOUT_ROWS = 500
OPSET = {"": 17, "ai.onnx.ml": 3}
ACCURACY_TOLERANCE = 0.004
"""How far a retrained accuracy may lie from the committed one: two of the 500 held-out images."""

Pixels = NDArray[np.float32]
Labels = NDArray[np.int64]


class Recipe(NamedTuple):
    """One model: how to fit it, and what its ONNX metadata says of it."""

    name: str
    description: str
    fit: Callable[[Pixels, Labels], Any]


class Split(NamedTuple):
    """Pixels [N, 64] in 0..16 and labels [N], to train on and held out."""

    train_pixels: Pixels
    heldout_pixels: Pixels
    train_labels: Labels
    heldout_labels: Labels


def fit_logreg(pixels: Pixels, labels: Labels) -> Pipeline:
    """Standardise each pixel, then multinomial logistic regression with its default penalty."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(pixels, labels)


def fit_svm(pixels: Pixels, labels: Labels) -> SVC:
    """A support-vector machine (RBF kernel) with Platt's probabilities.

    Raw pixels are whole numbers and `gamma` is a power of two, so that kernel distances are exact on every processor.
    `probability=True` is deprecated in favour of CalibratedClassifierCV, which needs 480 graph nodes and 250 us for an
    image where this needs 2 nodes and 35 us; scikit-learn keeps it until 1.11, hence the bound in the `train` extra.
    """
    machine = SVC(C=10, gamma=2**-11, probability=True, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return machine.fit(pixels, labels)


def fit_tree(pixels: Pixels, labels: Labels) -> DecisionTreeClassifier:
    """A decision tree six questions deep: too shallow for the task, on purpose."""
    return DecisionTreeClassifier(max_depth=6, random_state=SEED).fit(pixels, labels)


def fit_misscaled(pixels: Pixels, labels: Labels) -> Pipeline:
    """The logistic regression behind one scaling too many.

    The classic slip between training and serving: somebody "normalises" pixels to 0..1 in the exported graph, although
    the classifier standardises raw pixels itself. Every input then looks like a nearly blank image.
    """
    sound = fit_logreg(pixels, labels)
    division = StandardScaler(with_mean=False).fit(pixels)
    division.scale_ = np.full(pixels.shape[1], 16.0)
    return Pipeline([("normalise", division), *sound.steps])


RECIPES = (
    Recipe("digits-logreg", "Handwritten digits: logistic regression on standardised pixels.", fit_logreg),
    Recipe("digits-svm", "Handwritten digits: support-vector machine with an RBF kernel.", fit_svm),
    Recipe("digits-tree", "Handwritten digits: decision tree of depth 6, a visibly worse model.", fit_tree),
    Recipe("digits-misscaled", "Handwritten digits: logistic regression with an input-scaling bug.", fit_misscaled),
)


def load_split() -> Split:
    """The digits, split as always."""
    digits = load_digits()
    parts = train_test_split(
        digits.data.astype(np.float32),
        digits.target.astype(np.int64),
        test_size=HELDOUT_ROWS,
        stratify=digits.target,
        random_state=SEED,
    )
    return Split(*parts)


def export(recipe: Recipe, fitted: Any) -> bytes:
    """The ONNX file: `pixels` float32 [N, 64] in, `label` int64 [N] and `probabilities` float32 [N, 10] out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # skl2onnx reads the attributes that `fit_svm` speaks of
        model: ModelProto = to_onnx(
            fitted,
            initial_types=[("pixels", FloatTensorType([None, 64]))],
            options={id(fitted): {"zipmap": False}},
            target_opset=OPSET,
            name=recipe.name,
        )
    _name_outputs(model, ("label", "probabilities"))
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)  # skl2onnx leaves them in the order of a set
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    model.doc_string = recipe.description
    helper.set_model_props(model, {"name": recipe.name, "version": "1", "description": recipe.description})
    return bytes(model.SerializeToString(deterministic=True))


def _name_outputs(model: ModelProto, names: tuple[str, ...]) -> None:
    """Rename the graph's outputs, in their order, wherever they are produced or consumed."""
    renamed = {output.name: name for output, name in zip(model.graph.output, names, strict=True)}
    for output in model.graph.output:
        output.name = renamed[output.name]
    for node in model.graph.node:
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.input[:] = [renamed.get(name, name) for name in node.input]


def heldout_text(split: Split) -> str:
    """The held-out inputs as JSON, one image a line."""
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in split.heldout_pixels.astype(int).tolist())
    labels = json.dumps(split.heldout_labels.tolist(), separators=(",", ":"))
    return f'{{"pixels":[\n{rows}\n],\n"labels":{labels}}}\n'


def accuracy(model: bytes, split: Split) -> float:
    """The share of held-out images that an ONNX model, run by onnxruntime, reads rightly."""
    # Its official builds report to their maker over the network unless this is set before they are loaded.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # noqa: PLC0415  # see above

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (answers,) = session.run(["label"], {"pixels": split.heldout_pixels})
    return float(np.mean(answers == split.heldout_labels))


def train(folder: Path, split: Split) -> None:
    """Write every model and the held-out inputs into `folder`."""
    (folder / "heldout.json").write_text(heldout_text(split), encoding="utf-8")
    for recipe in RECIPES:
        with threadpool_limits(limits=1):
            fitted = recipe.fit(split.train_pixels, split.train_labels)
        (folder / f"{recipe.name}.onnx").write_bytes(export(recipe, fitted))


def check(committed: Path, split: Split) -> bool:
    """Retrain into a temporary folder and report on each file; False if an accuracy or the held-out inputs differ."""
    sound = True
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        train(fresh, split)
        same_inputs = (fresh / "heldout.json").read_bytes() == (committed / "heldout.json").read_bytes()
        print(f"{'heldout.json':24} {'same bytes' if same_inputs else 'DIFFERS'}")
        for recipe in RECIPES:
            old, new = ((where / f"{recipe.name}.onnx").read_bytes() for where in (committed, fresh))
            was, now = accuracy(old, split), accuracy(new, split)
            close = abs(was - now) <= ACCURACY_TOLERANCE
            sound = sound and close
            verdict = "accuracy matches" if close else "ACCURACY DIFFERS"
            print(f"{recipe.name + '.onnx':24} {verdict} ({was:.3f} committed, {now:.3f} retrained), ", end="")
            print("same bytes" if old == new else "other bytes (another library release or processor rounds otherwise)")
    return sound and same_inputs


def main(arguments: list[str] | None = None) -> int:
    """Train beside this script, or `--check`; the exit status is 1 if the check finds a difference."""
    parser = argparse.ArgumentParser(description="Train the bundled digit models and export them to ONNX.")
    parser.add_argument("--check", action="store_true", help="retrain in a temporary folder and compare")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to (or to check)")
    options = parser.parse_args(arguments)
    split = load_split()
    if options.check:
        return 0 if check(options.out, split) else 1
    options.out.mkdir(parents=True, exist_ok=True)
    train(options.out, split)
    for recipe in RECIPES:
        file = options.out / f"{recipe.name}.onnx"
        print(f"{file.name:24} accuracy {accuracy(file.read_bytes(), split):.3f}, {file.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
