"""Answers of another form than stable's: what is one, what is not, and what is unclear."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from gateway.core.predictions.event_stream import EventReader
from gateway.core.predictions.failures import OTHER_FORM, PAGE, ReadAnswer, read_answer
from gateway.core.predictions.form import PAST_MAX, WARM_UP
from gateway.core.predictions.usual import FailureRules

OIP = {"model_name": "m", "id": "7", "outputs": [{"name": "label", "data": [1]}]}
ENVELOPE = {"code": 0, "message": "ok", "data": {"label": "hen"}}
PNG = b"\x89PNG\r\n\x1a\n"


def seen(value: Any, media: str = "application/json", **options: Any) -> ReadAnswer:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_answer(media, body, **options)


def stream(*data: str) -> ReadAnswer:
    reader = EventReader()
    reader.feed("".join(f"data: {one}\n\n" for one in data).encode())
    return reader.seen(ended=True)


def used_to(*answers: ReadAnswer, times: int = WARM_UP) -> FailureRules:
    usual = FailureRules()
    for number in range(times * len(answers)):
        usual.learn(answers[number % len(answers)])
    return usual


UNLIKE: list[tuple[ReadAnswer, ReadAnswer]] = [
    *(
        (seen(OIP), seen(other))
        for other in (
            {"detail": "Not Found"},
            {"detail": [{"loc": ["body"], "msg": "field required"}]},
            {"message": "Internal server error"},
            {"code": 13, "message": "Internal error", "details": []},
            {"fault": {"faultstring": "x", "detail": {"errorcode": "y"}}},
            {"error_code": "BAD_REQUEST", "message": "x"},
            {"__type": "InternalServerException", "message": "x"},
            {"type": "about:blank", "title": "Internal Server Error", "status": 500, "detail": "x"},
            {"success": False},
            {"status": "error"},
            {"statusCode": 500, "body": "x"},
            {"traceback": "Traceback (most recent call last)"},
            {"error": 500},
            {"predicted": None},
            {"model_name": "m", "id": "7"},
            "Internal Server Error",
            503,
            [1],
        )
    ),
    (seen(ENVELOPE), seen({"code": 500, "message": "model failed"})),
    (seen({"result": 0.5}), seen({"result": None})),
    (seen([{"class": "hen"}]), seen([{"detail": "not loaded"}])),
    (seen([{"class": "hen"}]), seen({"class": "hen"})),
    (seen({"message": "hello"}), seen({"detail": "not loaded"})),
    (seen(OIP), seen(PNG, "image/png")),
    (seen(OIP), seen(b"<error/>", "application/xml")),
    (seen(PNG, "image/png"), seen({"status": "queued"})),
    (seen(PNG, "image/png"), seen(b'{"status": "que', cut=True)),
    (stream('{"text": "a"}', "[DONE]"), seen({"text": "a"})),
    (stream('{"text": "a"}', "[DONE]"), stream('{"detail": "x"}', "[DONE]")),
    (stream('{"text": "a"}', "[DONE]"), stream('{"te', "[DONE]")),
    (seen({"text": "a"}), stream('{"text": "a"}', "[DONE]")),
]
LIKE: list[tuple[ReadAnswer, ReadAnswer]] = [
    (seen(OIP), seen({**OIP, "parameters": {"a": 1}, "error": None, "warnings": []})),
    (seen(OIP), seen({"outputs": [{"name": "other", "data": [2]}]})),
    (seen(OIP), seen(json.dumps(OIP, indent=2, sort_keys=True).encode(), "text/plain")),
    (seen(OIP), seen(OIP, "application/octet-stream")),
    (seen(OIP), seen(json.dumps(OIP).encode()[:-9], whole=False)),
    (seen({"label": "hen", "score": 0.9}), seen({"label": "hen"})),
    (seen([1, 2]), seen([[1, 2]])),
    (seen(b"0.9", "text/plain"), seen(0.9)),
    (seen(PNG, "image/png"), seen(b"\xff\xd8", "image/jpeg")),
    (seen(PNG, ""), seen(PNG, "image/png")),
    (seen(b'{"a": 1}\n{"a": 2}\n', "application/x-ndjson"), seen({"a": 1})),
    (stream("a", "[DONE]"), stream("{", "[DONE]")),
    (stream('{"text": "a", "n": 1}', "[DONE]"), stream('{"text": "", "m": 1}', "[DONE]")),
    (seen(b"<a/>", "application/xml"), seen(b"<a/>", "application/soap+xml")),
]


@pytest.mark.parametrize(("stable", "canary"), UNLIKE)
def test_an_answer_unlike_all_of_stables_is_a_failure(stable: ReadAnswer, canary: ReadAnswer) -> None:
    usual = used_to(stable)
    assert usual.failure(canary) == OTHER_FORM
    assert usual.example(canary, OTHER_FORM), "it says in which way"
    assert used_to(canary).failure(canary) is None, "where stable does the same, it is this route's way"


@pytest.mark.parametrize(("stable", "canary"), LIKE)
def test_other_words_of_the_same_form_are_none(stable: ReadAnswer, canary: ReadAnswer) -> None:
    assert used_to(stable).failure(canary) is None


@pytest.mark.parametrize(("stable", "canary"), UNLIKE)
def test_nothing_is_said_before_stable_has_shown_one_form(stable: ReadAnswer, canary: ReadAnswer) -> None:
    assert used_to(stable, times=WARM_UP - 1).failure(canary) is None
    assert used_to(*[stable] * 19, canary).failure(canary) is None, "one answer in twenty of stable's is like it"


def test_the_example_names_what_is_missing() -> None:
    usual = used_to(seen(OIP))
    missing, other = seen({"detail": "Not Found"}), seen(PNG, "image/png")
    assert usual.example(missing, OTHER_FORM) == 'without outputs: {"detail": "Not Found"}'
    assert usual.example(other, OTHER_FORM) == "data other than JSON in the place of a JSON object: image/png"


def test_pages_and_texts_keep_their_name() -> None:
    assert used_to(seen(OIP)).failure(seen(b"please log in", "text/plain")) == PAGE


def test_failures_of_stable_teach_no_form() -> None:
    usual = used_to(*[seen(OIP)] * 4, seen({"error": "no GPU"}))
    assert usual.failure(seen({"detail": "Not Found"})) == OTHER_FORM


def test_stable_may_change_its_form_and_names_without_end_take_no_memory() -> None:
    draw = random.Random(3)
    usual = used_to(seen(OIP))
    for _ in range(3 * PAST_MAX):
        usual.learn(seen({f"image-{draw.random()}": 1, "best": 2}))
    assert usual.failure(seen({"image-x": 3})) == OTHER_FORM
    assert usual.failure(seen({"best": 3})) is None
