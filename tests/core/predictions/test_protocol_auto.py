"""Answers of common model servers, read without configuration: which label comes out, and what is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.predictions.events import FAULTS, LOW_CONFIDENCE, WARM_UP, Watch, WatchSettings, mix_names
from gateway.core.predictions.layout import choose
from gateway.core.predictions.outputs import OUTPUTS_MAX, Output, UndecodableError, WholeAnswer
from gateway.core.predictions.protocols.choice import AnswerReader
from gateway.core.predictions.reading import read
from gateway.core.types import Variant, Why

READER = AnswerReader("auto", {})
CLASSES = ("cat", "dog", "hen")


def decode(answer: WholeAnswer) -> list[Output]:
    return READER.extract(answer)[1]


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


def scores(n: int) -> list[float]:
    return [0.9 if i == n % 3 else 0.05 for i in range(3)]


# What the n-th answer looks like, and the label that it is to be read as.
TABLE = {
    "oip, a text": lambda n: ({"outputs": [tensor("y", "BYTES", [CLASSES[n % 3]])]}, CLASSES[n % 3]),
    "oip, scores": lambda n: ({"outputs": [tensor("probs", "FP32", scores(n), [1, 3])]}, str(n % 3)),
    "triton, score:index:label": lambda n: (
        {"outputs": [tensor("y", "BYTES", [f"0.97{n:04}:{n % 3}:{CLASSES[n % 3]}", f"0.02{n:04}:9:x"], [1, 2])]},
        CLASSES[n % 3],
    ),
    "triton, score:index": lambda n: ({"outputs": [tensor("y", "BYTES", [f"{n}.973112:{n % 3}"])]}, str(n % 3)),
    "kserve v1, classes": lambda n: ({"predictions": [n % 3]}, str(n % 3)),
    "tf-serving, rows": lambda n: ({"predictions": [scores(n)]}, str(n % 3)),
    "tf-serving, named rows": lambda n: (
        {"predictions": [{"probabilities": scores(n), "classes": CLASSES[n % 3]}]},
        CLASSES[n % 3],
    ),
    "tf-serving, columns": lambda n: (
        {"outputs": {"probabilities": [scores(n)], "classes": [CLASSES[n % 3]]}},
        CLASSES[n % 3],
    ),
    "tf-serving, one column": lambda n: ({"outputs": [scores(n)]}, str(n % 3)),
    "tf-serving, classify": lambda n: ({"results": [[["ox", 0.1], [CLASSES[n % 3], 0.9]]]}, CLASSES[n % 3]),
    "mlflow, list": lambda n: ({"predictions": [CLASSES[n % 3]]}, CLASSES[n % 3]),
    "mlflow, whole floats": lambda n: ({"predictions": [float(n % 3)]}, str(n % 3)),
    "mlflow, dict": lambda n: ({"predictions": {"label": [CLASSES[n % 3]], "score": [0.5 + n / 999]}}, CLASSES[n % 3]),
    "mlflow, records": lambda n: (
        {"predictions": [{"row_id": n, "score": n / 7, "label": CLASSES[n % 3]}]},
        CLASSES[n % 3],
    ),
    "plain list": lambda n: ([n % 3], str(n % 3)),
    "plain list of texts": lambda n: ([CLASSES[n % 3]], CLASSES[n % 3]),
    "plain list of objects": lambda n: ([{"class": CLASSES[n % 3]}], CLASSES[n % 3]),
    "object": lambda n: ({"class": CLASSES[n % 3]}, CLASSES[n % 3]),
    "label and score": lambda n: ({"label": CLASSES[n % 3], "score": n / 999}, CLASSES[n % 3]),
    "nested object": lambda n: ({"id": f"r{n}", "result": {"class": n % 3, "ms": n / 3}}, str(n % 3)),
    "results beside other things": lambda n: ({"model": "m-7", "data": [{"label": n % 3}]}, str(n % 3)),
    "ranked candidates": lambda n: (
        [[{"label": "ox", "score": 0.1}, {"label": CLASSES[n % 3], "score": 0.8}]],
        CLASSES[n % 3],
    ),
    "a number of the request first": lambda n: (
        {"outputs": [tensor("seq", "INT64", [n]), tensor("class", "INT64", [n % 3])]},
        str(n % 3),
    ),
    "a clock before an output without a telling name": lambda n: (
        {"at_ms": 1764471923000 + n // 9, "out": n % 3},
        str(n % 3),
    ),
    "a clock of seconds": lambda n: (
        {"outputs": [tensor("a", "INT64", [1764471923 + n // 50]), tensor("b", "INT64", [n % 3])]},
        str(n % 3),
    ),
    "a counter that repeats": lambda n: ({"a": n // 4, "b": n % 3}, str(n % 3)),
    "a text that never repeats": lambda n: ({"a": f"answer {n}", "b": n % 3}, str(n % 3)),
    "a text beside numbers": lambda n: ({"a": n % 2, "b": CLASSES[n % 3]}, CLASSES[n % 3]),
    "a constant text": lambda n: ({"status": "ok", "b": n % 3}, str(n % 3)),
}


@pytest.mark.parametrize("form", TABLE)
def test_the_label_is_found(form: str) -> None:
    answers = [decode(WholeAnswer(json.dumps(TABLE[form](n)[0]).encode())) for n in range(WARM_UP)]
    choice = choose(answers, {})
    assert not choice.problem and choice.reason
    for n, answer in enumerate(answers):
        assert read(answer, choice.layout, 0.5).label == TABLE[form](n)[1], choice.reason
    assert choose(answers, {}) == choice, "asked again, the choice is the same"


def test_of_a_batch_each_row_may_be_drawn() -> None:
    answer = decode(WholeAnswer(b'{"predictions": [{"class": "a"}, {"class": "b"}, {"class": "c"}]}'))
    layout = choose([answer] * WARM_UP, {"label": "class"}).layout
    assert [read(answer, layout, draw).label for draw in (0.0, 0.5, 0.99)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "body", [b'{"predictions": [null]}', b'{"predictions": [NaN]}', b'["hen", null]', b'{"class": null}']
)
def test_null_and_nan_are_seen(body: bytes) -> None:
    reading = read(decode(WholeAnswer(body)), None, 0.0)
    assert reading.nan and not reading.empty


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"<html>log in</html>", "not JSON"),
        (b"{}", "it has none"),
        (b'{"error": "model not loaded"}', "it is an error"),
        (b'{"predictions": [[1, 2], [3]]}', "differ in length"),
        (b'{"predictions": [{"boxes": [[1], [2, 3]]}]}', "boxes"),
        (b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1]}]}', "do not fill"),
        (b"[" * 5000, "not JSON"),
        (b'{"a":' * 5000, "not JSON"),
    ],
)
def test_what_cannot_be_read_says_why(body: bytes, why: str) -> None:
    with pytest.raises(UndecodableError, match=why):
        decode(WholeAnswer(body))


# what is said


def watched(*bodies: Any, watch: Watch | None = None, canary: bool = False) -> Watch:
    watch = watch or Watch(WatchSettings())
    for body in bodies:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            outputs, why = decode(WholeAnswer(data)), ""
        except UndecodableError as error:
            outputs, why = None, str(error)
        watch.take(Variant(canary), outputs, 0.5, why, data)
    return watch


def test_what_was_chosen_is_said() -> None:
    watch = watched(*({"seq": n, "class": CLASSES[n % 3]} for n in range(WARM_UP)))
    assert watch.watched.chosen == (
        "label from `class` (class-like name, text, 3 different in 100 answers);"
        " not judged: `seq` hardly repeats (100 of 100 differ, such as 0)"
    )
    assert watch.watched.unjudged == {LOW_CONFIDENCE: watch.watched.unjudged[LOW_CONFIDENCE]}
    assert watch.watched.unjudged[LOW_CONFIDENCE].why is Why.ABSENT


def test_unreadable_answers_of_stable_are_no_evidence_and_are_shown() -> None:
    watch = watched(*[b'{"predictions": ["hen'] * 200)
    watched(*[b"<html>\x1b[31m"] * 30, watch=watch, canary=True)
    unjudged = watch.watched.unjudged
    assert set(unjudged) == {*FAULTS, *mix_names(WatchSettings()), LOW_CONFIDENCE}
    said = unjudged["unreadable"].reason
    assert said.startswith("200 of 200 answers of stable and 30 of 30 answers of canary could not be read: not JSON")
    assert 'in {"predictions": ["hen' in said and "`predictions: {protocol: json," in said
    assert said.isprintable()


def test_a_canary_that_alone_cannot_be_read_is_evidence() -> None:
    watch = watched(*({"class": CLASSES[n % 3]} for n in range(WARM_UP)))
    watched(*[b"<html>"] * 100, watch=watch, canary=True)
    assert set(watch.watched.unjudged) == {LOW_CONFIDENCE}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda n: {"label": f"caption {n}"}, "`label` hardly repeats (100 of 100 differ, such as caption 0)"),
        (lambda n: {"price": n / 7}, "to compare numbers: `predictions: {kind: values, value: price}`"),
        (lambda n: {"seq": n}, "`seq` hardly repeats"),
        (
            lambda n: {"outputs": [tensor("p", "FP32", [float(i == n) for i in range(100)], [1, 100])]},
            "100 labels differ",
        ),
    ],
)
def test_what_cannot_be_compared_says_what_was_seen(body: Any, said: str) -> None:
    watch = watched(*(body(n) for n in range(WARM_UP)))
    assert said in watch.watched.unjudged["class_0"].reason
    assert watch.take(Variant.CANARY, decode(WholeAnswer(json.dumps(body(3)).encode())), 0.5)[0] == list(FAULTS)


def test_what_is_configured_is_taken() -> None:
    watch = Watch(WatchSettings(named={"label": "b"}))
    watched(*({"class": n % 2, "b": CLASSES[n % 3]} for n in range(WARM_UP)), watch=watch)
    assert watch.watched.chosen == "label from `b` (configured)"
    assert set(watch.meanings.values()) == {"class cat", "class dog", "class hen"}


def test_the_choice_stays_until_stable_has_nothing_of_it() -> None:
    watch = watched(*({"a": CLASSES[n % 3], "b": n % 2} for n in range(WARM_UP)))
    first = watch.watched.known
    watched(*({"a": "cat", "class": n % 2, "b": 0} for n in range(5 * WARM_UP)), watch=watch)
    assert watch.watched.known is not None and first is not None
    assert watch.watched.known.layout == first.layout
    watched(*({"class": n % 2} for n in range(3 * WARM_UP)), watch=watch)
    assert watch.watched.chosen.startswith("label from `class`")
    assert "; chosen again 1 time: stable's answers" in watch.watched.chosen


def test_another_process_goes_on_with_what_was_chosen() -> None:
    first = watched(*({"a": CLASSES[n % 3], "b": n % 2} for n in range(WARM_UP)))
    second = Watch(WatchSettings(), first.watched.known)
    answer = decode(WholeAnswer(b'{"a": "hen", "b": 0, "class": "x"}'))
    assert second.take(Variant.CANARY, answer, 0.5) == first.take(Variant.CANARY, answer, 0.5)
    assert second.meanings == first.meanings


def test_hostile_labels_are_bounded_and_printable() -> None:
    evil = ["\x1b[31m" + "x" * 10_000, "a\nb", "\ud800", "`" * 300]
    watch = watched(*({"class": evil[n % 4]} for n in range(3 * WARM_UP)))
    said = [watch.watched.chosen, *watch.meanings.values()]
    assert all(text.isprintable() and len(text) < 500 for text in said), said
    assert len(set(watch.meanings)) == 4


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0.5:1:hen", "hen"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["predictions", "outputs", "results", "label", "class", "score", "error", "a", "\n"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=150)
@given(st.lists(_JSON, min_size=1, max_size=12), st.integers(0, 2**32))
def test_any_json_whatever_is_read_or_refused(trees: list[Any], seed: int) -> None:
    draw = random.Random(seed).random
    watch = Watch(WatchSettings())
    known = {*FAULTS, *mix_names(WatchSettings()), LOW_CONFIDENCE}
    for index in range(2 * WARM_UP):
        body = json.dumps(trees[index % len(trees)]).encode()
        outputs: list[Output] | None = None
        try:
            outputs = decode(WholeAnswer(body))
            assert len(outputs) <= OUTPUTS_MAX
            assert len({output.name for output in outputs}) == len(outputs)
        except UndecodableError:
            pass
        tried, happened = watch.take(Variant(index % 2), outputs, draw(), "no", body)
        assert set(happened) <= set(tried) <= known
    assert set(watch.watched.unjudged) <= known and set(watch.meanings) <= known
    assert all(one.reason.isprintable() for one in watch.watched.unjudged.values())
    assert watch.watched.chosen.isprintable()


def test_a_wide_frame_keeps_its_class() -> None:
    wide = {f"feature_{n}": 0 for n in range(300)} | {"class": "hen"}
    outputs = decode(WholeAnswer(json.dumps([wide]).encode()))
    assert len(outputs) == OUTPUTS_MAX and outputs[0].name == "class"


def test_answers_whose_coding_cannot_be_undone_are_said() -> None:
    watch = Watch(WatchSettings())
    for _ in range(50):
        watch.skip(Variant.STABLE, "content-encoding br: install the package brotli to have it read")
    said = watch.watched.unjudged["class_0"]
    assert said.why is Why.NEVER
    assert "50 of 50 answers of stable could not be read: content-encoding br: install the package" in said.reason


def test_a_configured_output_that_is_not_there_is_said_with_those_that_are() -> None:
    watch = Watch(WatchSettings(named={"label": "clas"}))
    watched(*({"class": n % 2, "score": 0.5} for n in range(5 * WARM_UP)), watch=watch)
    said = watch.watched.unjudged["class_0"].reason
    assert said.startswith(
        "stable's answers have no output `clas`, which the configuration names; there are: `class`, `score`"
    )
    assert watch.watched.generation == 0
