"""Predictions that nobody asked for (mode `auto`): what is surely a prediction is compared, all else is silent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.core.predictions.events import FAULTS, LOW_CONFIDENCE, WARM_UP, Watch, WatchSettings, mix_names
from gateway.core.predictions.outputs import Output, UndecodableError, WholeAnswer
from gateway.core.predictions.protocols.choice import AnswerReader
from gateway.core.types import Variant, Why

READER = AnswerReader("auto", {})
CLASSES = ("cat", "dog", "hen")
SETTINGS = WatchSettings(surely=True)
MIX = mix_names(SETTINGS)
Body = Callable[[int], Any]


def decode(answer: WholeAnswer) -> list[Output]:
    return READER.extract(answer)[1]


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


def probabilities(n: int) -> list[float]:
    return [0.9 if i == n % 3 else 0.05 for i in range(3)]


def chat(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1764471923, "choices": [choice]}


COMPARED: dict[str, Body] = {
    "oip, a text": lambda n: {"outputs": [tensor("y", "BYTES", [CLASSES[n % 3]])]},
    "oip, whole numbers": lambda n: {"outputs": [tensor("predict", "INT64", [n % 3], [1, 1])]},
    "oip, probabilities": lambda n: {"outputs": [tensor("output", "FP32", probabilities(n), [1, 3])]},
    "oip, logits by their name": lambda n: {
        "outputs": [tensor("logits", "FP32", [9.0 * p for p in probabilities(n)], [1, 3])]
    },
    "triton, score:index:label": lambda n: {"outputs": [tensor("y", "BYTES", [f"0.9{n}:{n % 3}:{CLASSES[n % 3]}"])]},
    "kserve v1": lambda n: {"predictions": [n % 3]},
    "tf-serving": lambda n: {"predictions": [probabilities(n)]},
    "mlflow, list": lambda n: {"predictions": [CLASSES[n % 3]]},
    "mlflow, dict": lambda n: {"predictions": {"species": [CLASSES[n % 3]]}},
    "mlflow, records": lambda n: {"predictions": [{"row": n, "species": CLASSES[n % 3], "note": None}]},
    "a list": lambda n: [CLASSES[n % 3]],
    "a list of objects": lambda n: [{"class": CLASSES[n % 3]}],
    "an object": lambda n: {"label": CLASSES[n % 3], "score": 0.9, "next_page": None},
    "ranked candidates": lambda n: [[{"label": CLASSES[n % 3], "score": 0.8}, {"label": "ox", "score": 0.1}]],
}
SILENT: dict[str, tuple[Body, str]] = {
    "a chat": (
        lambda n: chat(f"answer {n % 3}"),
        "`text` is not called a prediction",
    ),
    "a chat with one answer": (lambda n: chat("no"), "is not called a prediction"),
    "generated text": (
        lambda n: [{"generated_text": f"text {n % 3}"}],
        "`generated_text` is not called a prediction",
    ),
    "prose in a known form": (lambda n: {"predictions": [f"{n % 3}: {'word ' * 20}"]}, "`predictions` is free text"),
    "lines in a known form": (lambda n: {"predictions": [f"{n % 3}\nand so on"]}, "`predictions` is free text"),
    "embeddings": (lambda n: {"data": [{"embedding": [0.1 * n, 0.2], "index": 0}]}, "`embedding` is not called"),
    "embeddings in a known form": (
        lambda n: {"outputs": [tensor("output", "FP32", [0.1 * (n % 3), 0.2], [1, 2])]},
        "`output` is a vector of numbers, an embedding perhaps",
    ),
    "any service": (lambda n: {"status": ("ok", "queued")[n % 2], "job": n}, "`status` is not called a prediction"),
    "found things": (lambda n: {"results": [{"title": f"a{n % 3}", "kind": "news"}]}, "`title` is not called"),
    "a number": (lambda n: {"predictions": [n / 7]}, "to compare numbers: `predictions: {kind: values, value: "),
    "a caption": (lambda n: {"label": f"caption {n}"}, "`label` hardly repeats"),
}


def fed(watch: Watch, variant: Variant, body: Any) -> tuple[list[str], list[str]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        outputs, why = decode(WholeAnswer(data)), ""
    except UndecodableError as error:
        outputs, why = None, str(error)
    return watch.take(variant, outputs, 0.5, why, data)


def learnt(body: Body) -> Watch:
    watch = Watch(SETTINGS)
    for n in range(WARM_UP):
        assert fed(watch, Variant.STABLE, body(n)) == ([], []), "before anything is known, nothing is tried"
    return watch


@pytest.mark.parametrize("form", COMPARED)
def test_what_is_surely_a_prediction_is_compared(form: str) -> None:
    watch = learnt(COMPARED[form])
    assert {one.why for name, one in watch.watched.unjudged.items() if name in MIX} == {Why.LEARNING}
    fed(watch, Variant.STABLE, COMPARED[form](0))
    for n in range(9):
        tried, happened = fed(watch, Variant.CANARY, COMPARED[form](n))
        assert {*FAULTS, *MIX} <= set(tried)
        assert set(happened) & set(MIX) == {f"class_{n % 3}"}
        assert not set(happened) & set(FAULTS), "null in a field beside the prediction is no fault"
    assert set(watch.watched.unjudged) <= {LOW_CONFIDENCE}, watch.watched


@pytest.mark.parametrize("form", COMPARED)
@pytest.mark.parametrize("other", [{"status": "ok"}, b"<html>", {"outputs": [tensor("z", "BYTES", ["a"])]}])
def test_a_canary_that_alone_answers_otherwise_is_evidence(form: str, other: Any) -> None:
    watch = learnt(COMPARED[form])
    fed(watch, Variant.STABLE, COMPARED[form](0))
    for _ in range(2 * WARM_UP):
        assert "unreadable" in fed(watch, Variant.CANARY, other)[1]
    assert set(watch.watched.unjudged) <= {LOW_CONFIDENCE}


@pytest.mark.parametrize("form", SILENT)
def test_all_else_is_silent(form: str) -> None:
    body, said = SILENT[form]
    watch = learnt(body)
    unjudged = watch.watched.unjudged
    assert set(MIX) <= set(unjudged) and said in unjudged["class_0"].reason
    assert {one.why for name, one in unjudged.items() if name in MIX} == {Why.NEVER}
    tried, _ = fed(watch, Variant.CANARY, {"outputs": [tensor("z", "BYTES", ["a"])]})
    assert not set(tried) & set(MIX)
    assert form in ("a number", "a caption") or (tried == [] and set(FAULTS) <= set(unjudged))


def test_a_number_that_is_missing_or_none_is_a_fault() -> None:
    watch = learnt(SILENT["a number"][0])
    assert fed(watch, Variant.CANARY, {"predictions": [0.5]}) == (list(FAULTS), [])
    assert fed(watch, Variant.CANARY, {"predictions": [None]}) == (list(FAULTS), ["nan"])
    assert fed(watch, Variant.CANARY, {"status": "ok"}) == (list(FAULTS), ["unreadable"])


@pytest.mark.parametrize("body", [b"\x89PNG\r\n", b"plain text", b'{"a": 1'])
def test_answers_that_are_no_predictions_are_silent(body: bytes) -> None:
    watch = Watch(SETTINGS)
    for variant in (Variant.STABLE, Variant.CANARY):
        for _ in range(WARM_UP):
            assert fed(watch, variant, body)[0] == []
    assert {one.why for name, one in watch.watched.unjudged.items() if name != LOW_CONFIDENCE} == {Why.NEVER}


def test_what_is_being_learnt_is_not_silent() -> None:
    watch = Watch(SETTINGS)
    assert {one.why for one in watch.watched.unjudged.values()} == {Why.WAITS}
    fed(watch, Variant.STABLE, {"class": "hen"})
    assert {one.why for one in watch.watched.unjudged.values()} == {Why.LEARNING}
    assert set(watch.watched.unjudged) == {*FAULTS, *MIX, LOW_CONFIDENCE}


def test_an_event_that_has_another_source_is_not_reported() -> None:
    watch = Watch(WatchSettings(reported=("empty", "class_1")))
    for n in range(WARM_UP):
        tried, _ = fed(watch, Variant.STABLE, COMPARED["kserve v1"](n))
        assert "empty" not in tried and "nan" in tried
    assert "class_1" not in fed(watch, Variant.CANARY, COMPARED["kserve v1"](1))[0]
