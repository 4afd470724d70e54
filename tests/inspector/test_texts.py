"""What language models answer, from a sample to counts: whole answers and streams in parts, tokens, what ends early."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.predictions.settings import RouteWatch
from gateway.core.predictions.text_events import TextSettings
from gateway.core.stats.counts import check
from gateway.inspector.aggregator import Aggregator
from gateway.runtime.samples import FAILURES, Part, Sample

CHAT = "/v1/chat/completions"
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
USAGE = {"prompt_tokens": 10, "completion_tokens": 4}


def watching(**settings: Any) -> Aggregator:
    made = Aggregator("boot", lambda: 0.5)
    made.watch({"r": RouteWatch(failures=True, **settings)})
    return made


def sample(body: bytes, part: Part = Part.ENDED, stream: int = 0, kind: str = "text/event-stream") -> Sample:
    return Sample("r", 1, 500, 1, body, kind, "", "", FAILURES, stream, part, False, CHAT)


def whole(text: str, finish: str = "stop") -> Sample:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return sample(json.dumps({"choices": [choice], "usage": USAGE}).encode(), kind="application/json")


def test_whole_answers_and_streams_in_parts_are_counted_alike() -> None:
    made = watching(texts=TextSettings())
    made.take(whole("I'm sorry, but I can't."), 0.0)
    made.take(whole('{"a": 1}', "length"), 0.0)
    for part, body in ((Part.FIRST, TOKEN * 3), (Part.MORE, TOKEN), (Part.ENDED, STOP)):
        made.take(sample(body, part, stream=7), 0.0)
    report = made.report(0.0)
    counts, found = report.report.evidence[0].canary, report.answers["r"][1]
    check(counts)
    assert {counts.trials[name] for name in ("refusal", "json_text", "finish_stop", "empty_answer")} == {3}
    said = {name: counts.events.get(name, 0) for name in ("refusal", "json_text", "finish_stop", "finish_length")}
    assert said == {"refusal": 1, "json_text": 1, "finish_stop": 2, "finish_length": 1}
    assert sum(counts.values["answer_length"].values()) == 3 and sum(counts.values["prompt_tokens"].values()) == 2
    assert found.texts == 3 and found.tokens == {"prompt_tokens": 20, "completion_tokens": 8}


def test_what_did_not_come_to_its_end_or_is_no_text_says_nothing() -> None:
    made = watching(texts=TextSettings())
    for part in (Part.LEFT, Part.LOST):
        made.take(sample(TOKEN, Part.FIRST, stream=part + 1), 0.0)
        made.take(sample(TOKEN, part, stream=part + 1), 0.0)
    made.take(sample(b'{"outputs": [1]}', kind="application/json"), 0.0)
    counts = made.report(0.0).report.evidence[0].canary
    assert counts.trials.keys() == {"model_errors", "unread"} and not counts.values


def test_where_it_is_switched_off_or_reported_by_somebody_else_it_is_not_read() -> None:
    made = watching()
    made.take(whole("Hi"), 0.0)
    assert made.report(0.0).report.evidence[0].canary.trials.keys() == {"model_errors", "unread"}
    made = watching(texts=TextSettings(), reported=("refusal", "answer_length"))
    made.take(whole("Hi"), 0.0)
    counts = made.report(0.0).report.evidence[0].canary
    assert "refusal" not in counts.trials and "answer_length" not in counts.values and "json_text" in counts.trials
