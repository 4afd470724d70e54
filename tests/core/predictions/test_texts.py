"""What language models' answers say, wherever their streams are cut: facts, events and numbers."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.predictions.event_stream import EventReader, LinesReader, StreamReader
from gateway.core.predictions.text_answers import ARGUMENTS_CHARS, JSON_CHARS, START_CHARS, TextFacts
from gateway.core.predictions.text_events import (
    BAD_ARGUMENTS,
    EMPTY_ANSWER,
    JSON_TEXT,
    REFUSAL,
    TOOL_OTHER,
    WARM_UP,
    TextSettings,
    TextWatch,
)
from gateway.core.types import Variant


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: %b\n\n" % json.dumps({"object": "chat.completion.chunk", "choices": choices, **more}).encode()


ROLE, DONE = chunk({"role": "assistant", "content": ""}), b"data: [DONE]\n\n"
STOP = chunk({}, "stop")
USAGE = chunk(usage={"prompt_tokens": 12, "completion_tokens": 3})


def call(index: int, arguments: str, name: str | None = None) -> bytes:
    return chunk({"tool_calls": [{"index": index, "function": {"name": name, "arguments": arguments}}]})


STREAMS: dict[str, tuple[bytes, TextFacts | None]] = {
    "text": (
        ROLE + chunk({"content": "Hel"}) + chunk({"content": "lo"}) + STOP + USAGE + DONE,
        TextFacts(5, "Hello", "stop", json=False, prompt_tokens=12, completion_tokens=3),
    ),
    "empty": (ROLE + STOP + DONE, TextFacts(0, "", "stop")),
    "cut short": (ROLE + chunk({"content": "Hi"}, "length") + DONE, TextFacts(2, "Hi", "length", json=False)),
    "json": (
        chunk({"content": '{"a": '}) + chunk({"content": "1}"}) + STOP,
        TextFacts(8, '{"a": 1}', "stop", json=True),
    ),
    "broken json": (chunk({"content": '{"a": '}) + STOP, TextFacts(6, '{"a": ', "stop", json=False)),
    "a tool": (
        ROLE + call(0, "", "find") + call(0, '{"q":') + call(0, '"x"}') + chunk({}, "tool_calls") + DONE,
        TextFacts(0, "", "tool_calls", ("find",), arguments=True),
    ),
    "two tools, one broken": (
        call(0, "{}", "find") + call(1, '{"q', "open") + chunk({}, "tool_calls"),
        TextFacts(0, "", "tool_calls", ("find", "open"), arguments=False),
    ),
    "arguments that are no object": (
        call(0, "[1]", "f") + STOP,
        TextFacts(0, "", "tool_calls", ("f",), arguments=False),
    ),
    "refused": (chunk({"refusal": "No."}) + STOP, TextFacts(0, "", "stop", refused=True)),
    "filtered": (ROLE + chunk({}, "content_filter") + DONE, TextFacts(0, "", "content_filter")),
    "a reason of its own": (chunk({"content": "a"}, "tired"), TextFacts(1, "a", "other", json=False)),
    "another kind of stream": (b'data: {"name":"label","value":3}\n\n' * 3, None),
    "plain text": (b"data: 42\n\ndata: 43\n\n", None),
    "an error": (ROLE + chunk({"content": "a"}) + b'data: {"error":{"message":"x"}}\n\n', None),
}


def facts_of(reader: StreamReader, pieces: list[bytes]) -> TextFacts | None:
    for piece in pieces:
        reader.feed(piece)
    reader.seen(ended=True)
    return reader.facts


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@given(cuts=st.lists(st.integers(0, 900), max_size=5))
@example(cuts=list(range(900)))
@settings(max_examples=8)
def test_what_a_stream_says_does_not_depend_on_where_it_is_cut(name: str, end: bytes, cuts: list[int]) -> None:
    stream, expected = STREAMS[name]
    stream = b"\xef\xbb\xbf: hello\n\n".replace(b"\n", end) + stream.replace(b"\n", end)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert facts_of(EventReader(), [stream[a:b] for a, b in itertools.pairwise(places)]) == expected


@given(st.lists(st.text(max_size=12), min_size=40, max_size=60), st.integers(1, 3000))
@settings(max_examples=20)
def test_long_texts_are_the_same_however_they_are_read(words: list[str], size: int) -> None:
    stream = b"".join(chunk({"content": word}) for word in ["[", *words]) + STOP + DONE
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    found, text = facts_of(EventReader(), pieces), "".join(["[", *words])
    assert found is not None
    assert (found.chars, found.start, found.reason) == (len(text), text[:START_CHARS], "stop")


def test_several_choices_are_one_answer_of_which_the_first_speaks() -> None:
    both = [{"index": index, "delta": {"content": "ab"[index] * 3}, "finish_reason": None} for index in range(2)]
    stream = b"data: %b\n\n" % json.dumps({"choices": both}).encode() * 60 + STOP
    found = facts_of(EventReader(), [stream])
    assert found is not None and found.chars == 180


def test_json_lines_are_read_alike() -> None:
    lines = [
        {"message": {"role": "assistant", "content": "Hi"}, "done": False},
        {"message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 4, "eval_count": 1},
    ]
    found = facts_of(LinesReader(), [b"".join(json.dumps(line).encode() + b"\n" for line in lines)])
    assert found == TextFacts(2, "Hi", "stop", json=False, prompt_tokens=4, completion_tokens=1)


def test_what_is_kept_is_bounded_and_what_is_too_long_is_unknown() -> None:
    long = chunk({"content": "[" + "1," * 500})
    found = facts_of(EventReader(), [long] * (JSON_CHARS // 900) + [STOP])
    assert found is not None and found.json is None and len(found.start) == START_CHARS
    found = facts_of(EventReader(), [call(0, "x" * 1000, "f")] * (ARGUMENTS_CHARS // 900) + [STOP])
    assert found is not None and found.arguments is None and found.tools == ("f",)
    many = [call(index, "{}", f"t{index}") for index in range(1000)]
    found = facts_of(EventReader(), [*many, STOP])
    assert found is not None and len(found.tools) == 16


@pytest.mark.parametrize(
    ("start", "refuses"),
    [
        ("I'm sorry, but I can't do that.", True),
        ("I\u2019m unable to help with that", True),
        ("AS AN AI LANGUAGE MODEL, I", True),
        ("I can help with that.", False),
        ("The sorry state of affairs", False),
    ],
)
def test_refusals_are_known_by_how_they_begin(start: str, refuses: bool) -> None:
    labels = dict(TextWatch(TextSettings()).take(Variant.CANARY, TextFacts(50, start, "stop")).labels)
    assert labels[REFUSAL] is refuses


def test_events_of_one_answer() -> None:
    watch = TextWatch(TextSettings(("nope",)))
    seen = watch.take(Variant.STABLE, TextFacts(3, "Nope", "stop", json=False, prompt_tokens=9))
    labels = dict(seen.labels)
    assert labels[REFUSAL] and labels["finish_stop"] and not labels["finish_length"] and not labels[EMPTY_ANSWER]
    assert labels[JSON_TEXT] is False and labels[BAD_ARGUMENTS] is False
    assert dict(seen.values) == {"answer_length": 2.0, "prompt_tokens": 9.0}
    assert dict(watch.take(Variant.STABLE, TextFacts(0, "", "stop")).labels)[EMPTY_ANSWER]


def test_tools_are_told_apart_by_what_stable_called_first() -> None:
    watch = TextWatch(TextSettings())
    for index in range(WARM_UP):
        called = TextFacts(0, "", "tool_calls", ("open" if index % 3 else "find",), arguments=True)
        watch.take(Variant.CANARY, TextFacts(0, "", "tool_calls", ("other",), arguments=True))
        assert not any(name.startswith("tool_") for name, _ in watch.take(Variant.STABLE, called).labels)
    assert watch.meanings == {"tool_0": "the tool find", "tool_1": "the tool open"}
    for tools, event in (((), None), (("find",), "tool_0"), (("open", "find"), "tool_1"), (("delete",), TOOL_OTHER)):
        labels = dict(watch.take(Variant.CANARY, TextFacts(1, "a", "stop", tools)).labels)
        assert {name for name, happened in labels.items() if name.startswith("tool_") and happened} == {event} - {None}
        assert {"tool_0", "tool_1", TOOL_OTHER} <= labels.keys(), "an answer without a call is a trial, too"
