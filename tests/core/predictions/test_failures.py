"""The reading rules of failures inside of a 200, as a table; and what of them counts on a route."""

from __future__ import annotations

import gzip
import random
from typing import Any

import msgspec
import pytest

from gateway.core.predictions.failures import (
    CUT,
    ERROR,
    INVALID,
    KINDS,
    NAN,
    NO_EVENTS,
    NOTHING,
    OTHER_FORM,
    PAGE,
    UNFINISHED,
    ReadAnswer,
    family_of,
    read_answer,
)
from gateway.core.predictions.form import DATA, OBJECT, WARM_UP, Form
from gateway.core.predictions.usual import FailureRules

ERRORS = [
    '{"error": "model not loaded"}',
    '{"error": {"message": "CUDA out of memory", "type": "server_error", "code": 500}}',
    '{"error": {"code": 13}, "outputs": []}',
    '{"error": true, "text": "x"}',
    '{"error": ["worker 3 died"]}',
    '{"error": [{"message": "bad"}]}',
    '{"errors": [{"message": "no such field", "locations": [{"line": 1}]}], "data": null}',
    '{"Error": "Internal"}',
    '{"errorMessage": "Task timed out", "errorType": "Sandbox.Timedout"}',
    '{"exception": "java.lang.NullPointerException"}',
    '{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}',
    '{"object": "error", "message": "model does not exist", "code": 404}',
    '{"code": 503, "type": "InternalServerException", "message": "Prediction failed"}',
    '{"status": "error", "message": "no GPU"}',
    '{"status": "FAILED", "detail": "no GPU"}',
    '{"success": false, "message": "no GPU"}',
    '{"success": false, "error_code": "BAD_REQUEST"}',
    '[{"error": {"code": 500, "message": "Internal", "status": "INTERNAL"}}]',
    '{"predictions": [{"class": "a"}, {"error": "instance failed"}]}',
    '{"results": [{"label": 1}, {"status": "error", "message": "x"}]}',
    '  \ufeff {"error": "after a blank and a mark"}'.strip(),
    '{"time": "2025-01-01", "status": 500, "error": "Internal Server Error", "path": "/"}',
]
NO_ERRORS = [
    '{"error": null, "predictions": [1]}',
    '{"error": "", "predictions": [1]}',
    '{"error": "None", "predictions": [1]}',
    '{"errors": [], "predictions": [1]}',
    '{"errors": {}, "predictions": [1]}',
    '{"error": false, "predictions": [1]}',
    '{"error": 0.02, "predictions": [1.5]}',
    '{"error": 1, "predictions": [1.5]}',
    '{"error": "0.02", "predictions": [1.5]}',
    '{"errors": [0.1, 0.2], "predictions": [1.5]}',
    '{"error": {"mean": 0.02, "std": 0.1}, "predictions": [1.5]}',
    '{"error": {"code": 0, "message": ""}, "predictions": [1]}',
    '{"error": {"data": [[0.1]]}, "predictions": [1]}',
    '{"type": "text", "message": "error is my name"}',
    '{"label": "error", "score": 0.9}',
    '{"status": "error"}',
    '{"status": "failed", "score": 0.3}',
    '{"success": false, "probability": 0.2}',
    '{"predictions": ["error", "ok"]}',
    '{"choices": [{"message": {"content": "An error: {\\"error\\": \\"x\\"}"}}]}',
    '{"outputs": [{"name": "error", "datatype": "FP32", "shape": [1], "data": [0.5]}]}',
    "[0.5, 0.25]",
    '"error"',
    "17",
    '{"a": 1}\n{"b": 2}\n',
    '{"score": 1e999}',
    '{"deep": ' + "[" * 300 + "]" * 300 + "}",
]
OTHERS: list[tuple[str, bytes, str | None]] = [
    ("application/json", b"", None),
    ("application/json", b" \r\n", INVALID),
    ("image/png", b"", None),
    ("", b"", None),
    ("application/json", b"Internal error", INVALID),
    ("application/json", b'{"outputs": [1, 2', INVALID),
    ("application/json", b"\xff\xfe\xfd", INVALID),
    ("application/json", b"[" * 100_000, None),
    ("application/problem+json", b"{", INVALID),
    ("application/json", b"<html></html>", INVALID),
    ("application/json", b'{"predictions": [NaN]}', NAN),
    ("application/json", b'{"predictions": [-Infinity, 1]}', NAN),
    ("application/json", b'{"error": "x", "predictions": [NaN]}', ERROR),
    ("application/json", b'{"text": "NaN"}', None),
    ("application/json", b'{"a": 1}\n{"error": "x"}\n', ERROR),
    ("application/json", b'{"a": 1}\n{"error": ', INVALID),
    ("application/json", b'{"outputs": []}', NOTHING),
    ("application/json", b'{"predictions": [], "model": "a"}', NOTHING),
    ("application/json", b'{"choices": []}', NOTHING),
    ("application/json", b"[]", NOTHING),
    ("application/json", b"{}", NOTHING),
    ("application/json", b"null", NOTHING),
    ("application/json", b'{"outputs": [], "predictions": [1]}', None),
    ("text/plain", b'{"error": "x"}', ERROR),
    ("", b'{"error": "x"}', ERROR),
    ("application/octet-stream", b'{"error": "x"}', ERROR),
    ("application/octet-stream", bytes(range(256)), None),
    ("image/png", b'{"error": "no image"}', None),
    ("application/grpc", b"\0\0\0", None),
]


def kinds(media: str, body: bytes, **options: Any) -> set[str]:
    return set(read_answer(media, body, **options).kinds)


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text: str) -> None:
    seen = read_answer("application/json; charset=utf-8", text.encode())
    assert seen.kinds == {ERROR} and seen.example, text


@pytest.mark.parametrize("text", NO_ERRORS)
def test_no_errors(text: str) -> None:
    assert kinds("application/json", text.encode()) == set(), text


@pytest.mark.parametrize(("media", "body", "kind"), OTHERS)
def test_other_kinds(media: str, body: bytes, kind: str | None) -> None:
    assert kinds(media, body) == ({kind} if kind else set())


@pytest.mark.parametrize(
    ("media", "body", "family"),
    [
        ("text/html", b"<p>", "html"),
        ("", b"<!DOCTYPE html><p>", "html"),
        ("text/plain", b" <html lang=en>", "html"),
        ("text/plain", b"ok", "text"),
        ("", b"ok \xc3\xa4", "text"),
        ("", b"\x00\x01", "binary"),
        ("audio/wav", b"RIFF", "audio"),
        ("application/x-tensor", b"[]", "binary"),
        ("text/plain", b"[1, 2]", "json"),
        ("text/plain", b"[see below]", "text"),
    ],
)
def test_families(media: str, body: bytes, family: str) -> None:
    assert read_answer(media, body).family == family


def test_families_of_types() -> None:
    names = ["text/event-stream; charset=utf-8", "application/x-ndjson", "Application/JSON", "application/xml", "x"]
    assert [family_of(name) for name in names] == ["event stream", "json lines", "json", "binary", "binary"]


def test_of_a_beginning_the_first_members_are_read() -> None:
    assert kinds("application/json", b'{"id": 7, "error": "out of memory", "trace": "' + b"x" * 999, cut=True) == {
        ERROR
    }
    assert kinds("application/json", b'{"error": {"message": "out of mem', cut=True) == set(), (
        "nobody knows how it ends"
    )
    assert kinds("application/json", b'{"error": {"message": "oom", "trace": ["', cut=True) == {ERROR}
    for text in (b'{"predictions": [0.1, 0.2', b'{"error": 0.02, "x": [', b'{"error": null, "x": [', b"[[0.1,", b"{"):
        assert kinds("application/json", text, cut=True) == set(), text
        assert kinds("application/json", text, whole=False) == set(), "its client left"


def test_random_bodies_never_break_out_and_examples_stay_short() -> None:
    for seed in range(400):
        draw = random.Random(seed)
        body = draw.choice(ERRORS + NO_ERRORS).encode()
        for _ in range(draw.randint(1, 4)):
            at = draw.randint(0, len(body))
            body = (
                body[:at]
                + draw.choice((b"", draw.randbytes(3), b'"', b"{", b"NaN", b"\n"))
                + body[at + draw.randint(0, 3) :]
            )
        seen = read_answer(draw.choice(("application/json", "", "text/plain")), body, cut=draw.random() < 0.3)
        assert seen.kinds <= set(KINDS) and len(seen.example) <= 200 and seen.example.isprintable(), seed


def good(**changes: Any) -> ReadAnswer:
    return msgspec.structs.replace(
        ReadAnswer("json", results=True, form=Form(OBJECT, frozenset(("outputs",)))), **changes
    )


def with_kind(kind: str) -> ReadAnswer:
    if kind == PAGE:
        return ReadAnswer("html")
    if kind == OTHER_FORM:
        return ReadAnswer("image", form=Form(DATA))
    return ReadAnswer("json", frozenset((kind,)), results=True, ends=True)


def learnt(**shares: float) -> FailureRules:
    """What 1,000 answers of stable's with these shares of kinds teach."""
    usual = FailureRules()
    for number in range(1000):
        kind = next((kind for kind, share in shares.items() if number % 100 < 100 * share), None)
        usual.learn(good(ends=True) if kind is None else with_kind(kind))
    return usual


@pytest.mark.parametrize("kind", KINDS)
def test_what_stable_never_does_is_a_failure(kind: str) -> None:
    assert learnt().failure(with_kind(kind)) == kind
    assert learnt().failure(good(ends=True)) is None


def test_an_error_is_one_whatever_stable_does() -> None:
    assert learnt(error=1.0).failure(with_kind(ERROR)) == ERROR == FailureRules().failure(with_kind(ERROR))


@pytest.mark.parametrize("kind", [INVALID, NAN, CUT, NO_EVENTS])
def test_a_broken_format_is_a_failure_unless_it_is_the_routes_way(kind: str) -> None:
    assert FailureRules().failure(with_kind(kind)) == kind, "before anything is known"
    assert learnt(**{kind: 0.5}).failure(with_kind(kind)) == kind
    assert learnt(**{kind: 0.95}).failure(with_kind(kind)) is None


@pytest.mark.parametrize("kind", [NOTHING, UNFINISHED, PAGE])
def test_what_a_good_model_may_say_is_a_failure_only_where_stable_hardly_ever_does(kind: str) -> None:
    usual = FailureRules()
    for _ in range(WARM_UP - 1):
        usual.learn(good(ends=True))
    assert usual.failure(with_kind(kind)) is None, "before anything is known"
    usual.learn(good(ends=True))
    assert usual.failure(with_kind(kind)) == kind
    assert learnt(**{kind: 0.05}).failure(with_kind(kind)) is None


def test_stable_may_change_its_ways() -> None:
    usual = learnt(no_results=1.0)
    assert usual.failure(with_kind(NOTHING)) is None
    for _ in range(10_000):
        usual.learn(good())
    assert usual.failure(with_kind(NOTHING)) == NOTHING


def test_ends_are_asked_of_streams_alone() -> None:
    usual = FailureRules()
    for _ in range(1000):
        usual.learn(good())
    assert usual.failure(with_kind(UNFINISHED)) is None, "no stream of stable's was seen"


def test_a_gzipped_error_is_no_json() -> None:
    assert kinds("application/json", gzip.compress(b"{}")) == {INVALID}
