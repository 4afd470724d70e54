"""What real servers sent (tests/systems): in which protocol it is, and what is in it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from gateway.core.predictions.outputs import UndecodableError, WholeAnswer
from gateway.core.predictions.protocols.adapter import AnswerClass
from gateway.core.predictions.protocols.choice import AnswerReader

READER = AnswerReader("auto", {})


class Sent(NamedTuple):
    """An answer, and what is to be read in it."""

    path: str
    body: str
    protocol: str
    outputs: dict[str, list[Any]]


_CHAT = (
    '{"id":"chatcmpl-528d99cc","created":1796051855,"model":"chat","object":"chat.completion","choices":[{"finish_reason":'
    '"stop","index":0,"message":{"content":"a hen, a fox, a cow and a cat","role":"assistant"}}],"usage":'
    '{"completion_tokens":20,"prompt_tokens":10,"total_tokens":30}}'
)
_COMPLETION = (
    '{"id":"chatcmpl-6e2d2b45","object":"text_completion","created":1796051861,"model":"chat","choices":[{"finish_reason":'
    '"stop","index":0,"text":"a hen","logprobs":null}],"usage":{"completion_tokens":20,"prompt_tokens":10,"total_'
    'tokens":30,"completion_tokens_details":null,"prompt_tokens_details":null}}'
)
_RESPONSE = (
    '{"id":"resp_czxI","created_at":1741476542,"error":null,"incomplete_details":null,"instructions":null,"metadata":{},'
    '"model":"chat","object":"response","output":[{"id":"msg_67cc","content":[{"annotations":[],"text":"a hen","type":'
    '"output_text","logprobs":null}],"role":"assistant","status":"completed","type":"message","phase":null}],"status":'
    '"completed","text":{"format":{"type":"text"}},"usage":{"input_tokens":36,"output_tokens":87,"total_tokens":123}}'
)
_SAID: dict[str, list[Any]] = {
    "finish_reason": ["stop"],
    "refused": [False],
    "prompt_tokens": [10],
    "completion_tokens": [20],
}
ANSWERS = {
    "KServe 0.21, V1": Sent(
        "/v1/models/animals:predict",
        '{"predictions":["fox","cow"]}',
        "kserve_v1 (by the path)",
        {"predictions": ["fox", "cow"]},
    ),
    "KServe 0.21, V2": Sent(
        "/v2/models/animals/infer",
        '{"model_name":"animals","model_version":null,"id":"","parameters":null,"outputs":[{"name":"species","shape":[2],'
        '"datatype":"BYTES","parameters":null,"data":["fox","cow"]}]}',
        "oip (by the path)",
        {"species": ["fox", "cow"]},
    ),
    "BentoML 1.4": Sent(
        "/classify", '{"label": "fox", "score": 0.9}', "json (by the body)", {"label": ["fox"], "score": [0.9]}
    ),
    "LiteLLM 1.106, a chat": Sent(
        "/v1/chat/completions",
        _CHAT,
        "openai (by the path)",
        {"text": ["a hen, a fox, a cow and a cat"], **_SAID},
    ),
    "LiteLLM 1.106, a completion": Sent(
        "/v1/completions", _COMPLETION, "openai (by the path)", {"text": ["a hen"], **_SAID}
    ),
    "LiteLLM 1.106, a response": Sent(
        "/somewhere",
        _RESPONSE,
        "openai (by the body)",
        {
            "text": ["a hen"],
            "finish_reason": ["completed"],
            "refused": [False],
            "prompt_tokens": [36],
            "completion_tokens": [87],
        },
    ),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_is_read_as_its_server_means(what: str) -> None:
    sent = ANSWERS[what]
    answer = WholeAnswer(sent.body.encode(), "application/json", path=sent.path)
    protocol, outputs = READER.extract(answer)
    assert (str(protocol), str(READER.recognise(answer))) == (sent.protocol, sent.protocol)
    assert {output.name: output.values for output in outputs} == sent.outputs
    assert READER.classify(answer) is AnswerClass.OK


@pytest.mark.parametrize(
    ("status", "body", "meant"),
    [
        (200, '{"error":"1 validation error for Input","detail":[{"type":"list_type"}]}', AnswerClass.MODEL_ERROR),
        (400, '{"error":"1 validation error for Input","detail":[{"type":"list_type"}]}', AnswerClass.CLIENT_ERROR),
        (200, '{"error":{"message":"Rate limit","type":"throttling_error","code":"429"}}', AnswerClass.OVERLOAD),
        (503, "upstream connect error", AnswerClass.OVERLOAD),
        (200, "<html>", AnswerClass.MODEL_ERROR),
        (200, '{"predictions": [NaN]}', AnswerClass.MODEL_ERROR),
    ],
)
def test_what_is_no_answer_is_in_a_class(status: int, body: str, meant: AnswerClass) -> None:
    assert READER.classify(WholeAnswer(body.encode(), "application/json", status=status)) is meant


@pytest.mark.parametrize("form", ["$.a[*].b", "a.*.b", "/a/*/b"])
def test_a_place_in_every_item_is_written_in_three_ways(form: str) -> None:
    _, (output,) = AnswerReader("json", {"label": form}).extract(WholeAnswer(b'{"a": [{"b": "x"}, {"b": "y"}]}'))
    assert (output.name, output.shape, output.values) == ("label", (2,), ["x", "y"])
    with pytest.raises(UndecodableError, match="there is nothing at"):
        AnswerReader("json", {"label": form}).extract(WholeAnswer(b'{"a": [{"b": "x"}, {}]}'))


def test_vectors_are_read_as_numbers_and_as_base64() -> None:
    body = b'{"object": "list", "data": [{"embedding": [0.5, -2.0]}, {"embedding": [1.0, 0.0]}], "usage": {}}'
    coded = b'{"object": "list", "data": [{"embedding": "AAAAPwAAAMA="}, {"embedding": "AACAPwAAAAA="}], "usage": {}}'
    for sent in (body, coded):
        _, (output,) = READER.extract(WholeAnswer(sent, path="/v1/embeddings"))
        assert (output.shape, output.values) == ((2, 2), [0.5, -2.0, 1.0, 0.0])
    with pytest.raises(UndecodableError, match="base64"):
        READER.extract(WholeAnswer(b'{"data": [{"embedding": "a hen"}]}'))
