"""The text model's server over real sockets: OpenAI's two forms, streaming and not, its faults, and who leaves."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import bundled
from gateway.serving.errors import ModelLoadError
from gateway.serving.text_model import TextModel

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASKED: dict[str, Any] = {"model": "text-bigram", "messages": [{"role": "user", "content": "Say something."}], "seed": 7}


@pytest.fixture(scope="module")
def texts(start_module: Any) -> Any:
    return start_module(bundled.text_path("text-bigram"), "--fault-control")


def events(response: httpx.Response) -> list[Any]:
    """The data of a stream's events; the end mark is its last."""
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
    *found, rest = response.text.split("\n\n")
    assert rest == "" and all(event.startswith("data: ") for event in found)
    data = [event.removeprefix("data: ") for event in found]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def post(texts: Any, path: str = CHAT, **asked: Any) -> httpx.Response:
    response: httpx.Response = texts.client.post(path, json=ASKED | asked)
    return response


def test_a_stream_says_the_same_as_the_whole(texts: Any) -> None:
    whole = post(texts).json()
    message, usage = whole["choices"][0]["message"], whole["usage"]
    assert message["role"] == "assistant" and message["content"] and whole["object"] == "chat.completion"
    first, *chunks, counted, done = events(post(texts, stream=True, stream_options={"include_usage": True}))
    assert done == "[DONE]" and counted["choices"] == [] and counted["usage"] == usage
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in chunks) == message["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "stop"
    assert usage["completion_tokens"] == len(chunks) - 1 and usage["prompt_tokens"] == 2
    assert {one["object"] for one in chunks} == {"chat.completion.chunk"}


def test_completions_length_and_json(texts: Any) -> None:
    done = post(texts, COMPLETIONS, prompt="The canary", max_tokens=3).json()
    assert done["object"] == "text_completion" and done["choices"][0]["finish_reason"] == "length"
    assert done["usage"]["completion_tokens"] == 3
    *chunks, mark = events(post(texts, COMPLETIONS, prompt="The canary", max_tokens=3, stream=True))
    assert "".join(one["choices"][0]["text"] for one in chunks) == done["choices"][0]["text"] and mark == "[DONE]"
    said = post(texts, response_format={"type": "json_object"}).json()["choices"][0]["message"]["content"]
    assert json.loads(said)["text"]


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({"model": "gpt"}, 404, "unknown model 'gpt'"),
        ({"messages": []}, 400, "messages are missing"),
        ({"max_tokens": 0}, 400, "max_tokens must be from 1"),
        ({"n": 2}, 400, "n must be 1"),
        ({"tools": [{}]}, 400, "tools are not supported"),
        ({"stream": "yes"}, 400, "not valid"),
    ],
)
def test_what_cannot_be_answered_is_refused(texts: Any, asked: dict[str, Any], status: int, says: str) -> None:
    response = post(texts, **asked)
    assert response.status_code == status and says in response.json()["error"]["message"]


def test_health_and_the_model(texts: Any) -> None:
    assert [one["id"] for one in texts.client.get("/v1/models").json()["data"]] == ["text-bigram"]
    assert texts.client.get("/health").status_code == texts.client.get("/v2/health/ready").status_code == 200
    assert texts.client.get("/v2/models/x").json()["error"].endswith("see GET /v1/models")


def test_faults_of_streams(texts: Any) -> None:
    def with_fault(**faults: float) -> list[Any]:
        texts.client.put("/v2/faults", json={key.replace("_", "-"): value for key, value in faults.items()})
        return events(post(texts, stream=True))

    try:
        empty = with_fault(empty=1)
        assert [one["choices"][0]["finish_reason"] for one in empty[:-1]] == [None, "stop"] and empty[-1] == "[DONE]"
        failed = [with_fault(stream_error=1) for _ in range(12)]
        assert all("error" in one[-1] for one in failed) and {len(one) for one in failed} == {1, 4}
        texts.client.put("/v2/faults", json={"stall": 1})
        with texts.client.stream("POST", CHAT, json=ASKED | {"stream": True}, timeout=0.5) as response:
            with pytest.raises(httpx.ReadTimeout):
                response.read()
    finally:
        texts.client.put("/v2/faults", json={})


def test_models_are_what_their_script_makes_and_write_by_chance() -> None:
    script = Path(bundled.__file__).with_name("train_text.py")
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    known = set(" ".join(bundled.prompts()).replace(".", "").split())
    for name in bundled.TEXT_NAMES:
        model = TextModel.load(bundled.text_path(name))
        written = ["".join(model.write("", random.Random(seed))) for seed in range(20)]
        assert len(set(written)) == 20 and {text.split()[0].rstrip(".,") for text in written} <= known
    with pytest.raises(ValueError, match="no bundled text model is called 'x'"):
        bundled.text_path("x")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no JSON", "not a text model"),
        ('{"format":"x","name":"a","version":"1","order":2,"words":[],"counts":{}}', "its format is 'x'"),
        ('{"format":"word-ngram","name":"a","version":"1","order":2,"words":[],"counts":{"0":[]}}', "without words"),
        ('{"format":"word-ngram","name":"a","version":"1","order":2,"words":[],"counts":{}}', "could begin with"),
    ],
)
def test_files_that_are_no_models_are_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(ModelLoadError, match=says):
        TextModel.load(path)
