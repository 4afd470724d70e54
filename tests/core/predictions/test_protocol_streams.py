"""Events of the servers of language models: what adds text, what ends a stream, what is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.predictions.protocols.adapter import EventKind, ProtocolName, StreamEvent, ToolCall
from gateway.core.predictions.protocols.choice import AnswerReader

OTHER, TOKEN, END, ERROR = EventKind.OTHER, EventKind.TOKEN, EventKind.END, EventKind.ERROR
CHAT, GENERATE, TGI = "/v1/chat/completions", "/v2/models/m/generate_stream", "/generate_stream"


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def call(index: int, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "id": "x", "function": {"name": name, "arguments": arguments}}]}


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
# The path, the event's name and its data, as the servers send them, and what it is.
EVENTS: dict[str, tuple[str, str, Any, StreamEvent]] = {
    "a role": (CHAT, "", chunk({"role": "assistant", "content": ""}), StreamEvent(OTHER)),
    "a text": (CHAT, "", chunk({"content": "Hel"}), StreamEvent(TOKEN, "Hel")),
    "a thought": (CHAT, "", chunk({"reasoning_content": "hm"}), StreamEvent(TOKEN, reasoning="hm")),
    "a thought of vLLM's": (CHAT, "", chunk({"reasoning": "hm"}), StreamEvent(TOKEN, reasoning="hm")),
    "a refusal": (CHAT, "", chunk({"refusal": "I can't"}), StreamEvent(TOKEN, refusal="I can't")),
    "a call": (CHAT, "", chunk(call(1, "search")), StreamEvent(TOKEN, tools=(ToolCall(1, "search"),))),
    "its arguments": (CHAT, "", chunk(call(1, None, '{"q')), StreamEvent(TOKEN, tools=(ToolCall(1, "", '{"q'),))),
    "an end": (CHAT, "", chunk({}, "stop"), StreamEvent(END, finish="stop")),
    "a text and an end": (CHAT, "", chunk({"content": "."}, "length"), StreamEvent(END, ".", finish="length")),
    "an end by an error": (
        CHAT,
        "",
        chunk({}, "error"),
        StreamEvent(ERROR, finish="error", error="finish_reason is error"),
    ),
    "usage alone": (
        CHAT,
        "",
        {"object": "chat.completion.chunk", "choices": [], "usage": USAGE},
        StreamEvent(OTHER, prompt_tokens=7, completion_tokens=3),
    ),
    "the end mark": (CHAT, "", "[DONE]", StreamEvent(END)),
    "no data": (CHAT, "", "", StreamEvent(OTHER)),
    "a completion": ("/v1/completions", "", {"choices": [{"index": 0, "text": "ab"}]}, StreamEvent(TOKEN, "ab")),
    "a response's start": ("/v1/responses", "response.created", {"type": "response.created"}, StreamEvent(OTHER)),
    "a response's text": (
        "/v1/responses",
        "response.output_text.delta",
        {"type": "response.output_text.delta", "delta": "ab"},
        StreamEvent(TOKEN, "ab"),
    ),
    "a response's call": (
        "/v1/responses",
        "",
        {"type": "response.output_item.added", "output_index": 2, "item": {"type": "function_call", "name": "f"}},
        StreamEvent(TOKEN, tools=(ToolCall(2, "f"),)),
    ),
    "a response's end": (
        "/v1/responses",
        "response.completed",
        {"type": "response.completed", "response": {"status": "completed", "usage": {"input_tokens": 5}}},
        StreamEvent(END, finish="completed", prompt_tokens=5),
    ),
    "a message's start": (
        "/v1/messages",
        "message_start",
        {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}},
        StreamEvent(OTHER, prompt_tokens=9, completion_tokens=1),
    ),
    "a message's text": (
        "/v1/messages",
        "content_block_delta",
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ab"}},
        StreamEvent(TOKEN, "ab"),
    ),
    "a message's reason": (
        "/v1/messages",
        "message_delta",
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 12}},
        StreamEvent(END, finish="end_turn", completion_tokens=12),
    ),
    "a message's end": ("/v1/messages", "message_stop", {"type": "message_stop"}, StreamEvent(END)),
    "Triton's text": (
        GENERATE,
        "",
        {"model_name": "m", "model_version": "1", "text_output": "ab"},
        StreamEvent(TOKEN, "ab"),
    ),
    "Triton's empty text": (GENERATE, "", {"model_name": "m", "text_output": ""}, StreamEvent(OTHER)),
    "TGI's token": (
        TGI,
        "",
        {"token": {"id": 4, "text": " a", "special": False}, "generated_text": None, "details": None},
        StreamEvent(TOKEN, " a"),
    ),
    "TGI's last one": (
        TGI,
        "",
        {
            "token": {"text": "</s>", "special": True},
            "generated_text": " a b",
            "details": {"finish_reason": "eos_token", "generated_tokens": 3},
        },
        StreamEvent(END, "", finish="eos_token", completion_tokens=3),
    ),
    "a line of Ollama's": ("/api/chat", "", {"message": {"content": "a"}, "done": False}, StreamEvent(TOKEN, "a")),
    "its last one": (
        "/api/generate",
        "",
        {"response": "", "done": True, "done_reason": "stop", "eval_count": 4, "prompt_eval_count": 2},
        StreamEvent(END, finish="stop", prompt_tokens=2, completion_tokens=4),
    ),
    "an unknown object": ("/stream", "", {"n": 3}, StreamEvent(TOKEN)),
    "a plain text": ("/stream", "", "hello", StreamEvent(TOKEN, "hello")),
    "a ping": ("/stream", "ping", {"type": "ping"}, StreamEvent(OTHER)),
    "a last event by its name": ("/stream", "done", {"n": 3}, StreamEvent(END)),
}


def read(path: str, name: str, data: object) -> StreamEvent:
    text = data if isinstance(data, str) else json.dumps(data)
    return AnswerReader("auto", {}).stream(path).stream(text.encode(), name.encode())


@pytest.mark.parametrize("what", EVENTS)
def test_an_event_is_what_its_server_means(what: str) -> None:
    path, name, data, meant = EVENTS[what]
    assert read(path, name, data) == meant


@pytest.mark.parametrize("protocol", [name.value for name in ProtocolName])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("error", "x"),
        ("", '{"error": {"message": "CUDA out of memory", "code": 500}}'),
        ("", '{"error": "out of memory", "score": NaN}'),
        ("", "[ERROR] out of memory"),
        ("response.failed", "{}"),
        ("", '{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'),
    ],
)
def test_an_error_is_one_in_every_protocol(protocol: str, name: str, data: str) -> None:
    found = AnswerReader(protocol, {}).stream("/x").stream(data.encode(), name.encode())
    assert found.kind is ERROR and found.error


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "choices",
                        "delta",
                        "content",
                        "tool_calls",
                        "function",
                        "finish_reason",
                        "usage",
                        "type",
                        "token",
                    ),
                    *(
                        "message",
                        "text_output",
                        "done",
                        "response",
                        "item",
                        "details",
                        "error",
                        "output",
                        "data",
                        "text",
                    ),
                    *("embedding", "content_block", "model_name", "generated_text", "outputs", "predictions"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200)
@given(
    st.binary(max_size=60) | _JSON.map(lambda tree: json.dumps(tree).encode()),
    st.binary(max_size=10) | st.sampled_from([b"error", b"done", b"response.completed", b"message_delta", b"ping"]),
    st.sampled_from(ProtocolName),
)
def test_no_event_whatever_makes_a_reader_fail(data: bytes, name: bytes, protocol: ProtocolName) -> None:
    found = AnswerReader(protocol, {}).stream("/x").stream(data, name)
    assert found.kind is not ERROR or found.error
    assert all(count is None or count >= 0 for count in (found.prompt_tokens, found.completion_tokens))
