"""Sampled answers and their protocols: which one was read is counted, and what it says is wrong is a failure."""

from __future__ import annotations

import gzip
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.predictions.events import WatchSettings
from gateway.core.predictions.form import WARM_UP
from gateway.core.predictions.protocols.adapter import in_words
from gateway.core.predictions.settings import RouteWatch
from gateway.core.stats.counts import Counts
from gateway.core.types import Variant
from gateway.inspector.aggregator import Aggregator
from gateway.runtime.samples import FAILURES, PREDICTIONS, Inspected, Part, Sample

STABLE, CANARY = Variant.STABLE, Variant.CANARY
CHAT = "/v1/chat/completions"


def watching(**settings: Any) -> Aggregator:
    made = Aggregator("boot", lambda: 0.5)
    made.watch({"r": RouteWatch(failures=True, watch=WatchSettings(surely=True), **settings)})
    return made


def sample(variant: Variant, path: str, body: object, *, encoding: str = "", purposes: int = FAILURES) -> Sample:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Sample("r", 1, 500, variant, data, "application/json", encoding, "", purposes, 0, Part.ENDED, False, path)


def arm(inspected: Inspected, variant: Variant) -> Counts:
    (evidence,) = inspected.report.evidence
    return evidence.canary if variant is CANARY else evidence.stable


def chat(text: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **message}
    return {"object": "chat.completion", "model": "m", "choices": [{"message": said, "finish_reason": finish}]}


def test_what_was_chosen_is_counted_by_what_it_was_known() -> None:
    made = watching()
    for path, body in (
        (CHAT, chat("hello")),
        (CHAT, {"error": {"message": "out of memory"}}),
        ("/anything", chat("hello")),
        ("/invocations", {"predictions": [1]}),
        ("/v1/models/a:predict", {"result": "hen"}),
    ):
        made.take(sample(STABLE, path, body), 0.0)
    made.take(sample(STABLE, "/predict", {"predictions": [1]}, purposes=FAILURES | PREDICTIONS), 0.0)
    counted = {str(one): n for one, n in made.report(0.0).protocols["r"]}
    assert counted == {
        "openai (by the path)": 2,
        "openai (by the body)": 1,
        "mlflow (by the path)": 1,
        "json (by the body)": 1,
        "kserve_v1 (by the body)": 1,
    }
    assert in_words(made.report(0.0).protocols["r"]).startswith("openai (by the path): 2, ")


def test_a_stream_that_is_short_is_counted_as_well() -> None:
    made = watching()
    sent = msgspec.structs.replace(sample(STABLE, CHAT, b"data: [DONE]\n\n"), content_type="text/event-stream")
    made.take(sent, 0.0)
    assert in_words(made.report(0.0).protocols["r"]) == "openai (by the path): 1 answers"


def test_what_is_configured_is_read_in_nothing_else() -> None:
    made = watching(protocol="oip")
    made.take(sample(STABLE, CHAT, {"predictions": ["hen"]}, purposes=PREDICTIONS), 0.0)
    made.take(sample(STABLE, CHAT, {"predictions": ["hen"]}), 0.0)
    inspected = made.report(0.0)
    assert [str(one) for one, _ in inspected.protocols["r"]] == ["oip (by the configuration)"]
    assert inspected.results["r"]["unreadable"] == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"message": "CUDA out of memory", "type": "InternalServerError", "code": 500}}, "error"),
        ({"error": {"message": "try again", "type": "rate_limit_error", "code": None}}, "overload"),
        ({"error": {"message": "Overloaded", "code": "529"}}, "overload"),
        (
            {"error": {"message": "too large", "type": "invalid_request_error", "param": "x"}},
            "client_error",
        ),
        ({"object": "error", "message": "no such model", "type": "NotFoundError", "code": 404}, "client_error"),
        ({"status": "error", "message": "the model failed with 429 rows"}, "error"),
    ],
)
def test_whose_doing_an_error_inside_a_200_is(body: dict[str, Any], kind: str) -> None:
    made = watching()
    made.take(sample(CANARY, CHAT, body), 0.0)
    assert made.report(0.0).answers["r"][CANARY].failures == {kind: 1}
    assert arm(made.report(0.0), CANARY).events["model_errors"] == 1


def tensor(*data: int) -> dict[str, Any]:
    return {"outputs": [{"name": "y", "datatype": "INT64", "shape": [len(data)], "data": list(data)}]}


def completion(text: str) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": "stop"}]}


def embeddings(*vector: float) -> dict[str, Any]:
    return {"object": "list", "data": [{"embedding": list(vector)}], "usage": {}}


def response(*output: dict[str, Any]) -> dict[str, Any]:
    return {"object": "response", "status": "completed", "output": list(output)}


@pytest.mark.parametrize(
    ("path", "good", "empty"),
    [
        (CHAT, chat("hello"), chat("")),
        (CHAT, chat("hello"), chat(None)),
        (CHAT, chat("hello"), {"object": "chat.completion", "choices": []}),
        ("/v1/completions", completion("a"), completion("")),
        ("/v1/embeddings", embeddings(0.5, 1.5), embeddings()),
        ("/v1/embeddings", embeddings(0.5, 1.5), {"object": "list", "data": [], "usage": {}}),
        ("/v1/responses", response({"type": "message"}), response()),
        ("/v2/models/m/infer", tensor(1), tensor()),
        ("/v2/models/m/generate", {"model_name": "m", "text_output": "a"}, {"model_name": "m", "text_output": ""}),
        ("/v1/models/m:predict", {"predictions": [1]}, {"predictions": []}),
    ],
)
def test_an_answer_without_what_its_protocol_demands_says_nothing(path: str, good: Any, empty: Any) -> None:
    made = watching()
    for _ in range(WARM_UP):
        made.take(sample(STABLE, path, good), 0.0)
    made.take(sample(CANARY, path, empty), 0.0)
    made.take(sample(CANARY, path, good), 0.0)
    assert made.report(0.0).answers["r"][CANARY].failures == {"no_results": 1}


@pytest.mark.parametrize(
    "body",
    [chat("", "length"), chat(None, "tool_calls", tool_calls=[{"function": {"name": "f"}}]), chat(None, refusal="no")],
)
def test_an_answer_that_may_be_without_text_is_none_of_these(body: dict[str, Any]) -> None:
    made = watching()
    for _ in range(WARM_UP):
        made.take(sample(STABLE, CHAT, chat("hello")), 0.0)
    made.take(sample(CANARY, CHAT, body), 0.0)
    assert made.report(0.0).answers["r"][CANARY].failures == {}


def test_a_broken_coding_convicts_only_where_stables_can_be_read() -> None:
    whole = gzip.compress(b'{"predictions": [1]}')
    for stables, counts in ((whole, True), (whole[:-9], False)):
        made = watching()
        for _ in range(WARM_UP):
            made.take(sample(STABLE, "/x", stables, encoding="gzip"), 0.0)
        made.take(sample(CANARY, "/x", whole[:-9], encoding="gzip"), 0.0)
        made.take(sample(CANARY, "/x", b"anything", encoding="aws-chunked"), 0.0)
        inspected = made.report(0.0)
        canary = arm(inspected, CANARY)
        assert canary.events["unread"] == canary.trials["unread"] == 2
        assert canary.trials.get("model_errors", 0) == canary.events.get("model_errors", 0) == int(counts)
        assert inspected.answers["r"][CANARY].failures == ({"broken_body": 1} if counts else {})


_BODIES = st.binary(max_size=80) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["predictions", "outputs", "choices", "data", "error", "message", "text_output", "code"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
).map(lambda tree: json.dumps(tree).encode())


@settings(max_examples=100)
@given(
    _BODIES,
    st.sampled_from(["", "gzip", "deflate", "br", "zstd", "x, y"]),
    st.sampled_from([CHAT, "/x", "/invocations"]),
)
def test_no_answer_whatever_stops_the_inspector(body: bytes, encoding: str, path: str) -> None:
    made = watching()
    for variant in (STABLE, CANARY):
        for coded in (encoding, ""):
            made.take(sample(variant, path, body, encoding=coded, purposes=FAILURES | PREDICTIONS), 0.0)
    (evidence,) = made.report(0.0).report.evidence
    assert evidence.canary.trials["unread"] == evidence.stable.trials["unread"] == 2
