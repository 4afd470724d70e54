"""OpenAI's chat completions and completions, as far as the text model speaks them: requests in, answers and chunks out.

Rules:

1. Read are `model`, `messages` or `prompt`, `stream`, `stream_options.include_usage`, `max_tokens` (or
   `max_completion_tokens`), `seed` and `response_format`. Anything else is accepted and does nothing, but `n` beyond 1
   and `tools`, which are refused: an answer that ignored them would be wrong.
2. A stream is a chunk with the role, one for each token, one with the reason for the end, one with the usage if it was
   asked for, and ``[DONE]``.
3. With ``response_format`` of a JSON type the text is an object with the sentence in it.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.serving.errors import RequestError
from gateway.serving.text_model import TextModel

TOKENS_MAX = 4096
DEFAULT_TOKENS = 64
DONE = b"data: [DONE]\n\n"
_encoder = msgspec.json.Encoder()


class _ChatMessage(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _ResponseFormat(msgspec.Struct):
    type: str = "text"


class _ChatRequest(msgspec.Struct):
    model: str
    messages: list[_ChatMessage] | None = None
    prompt: str | list[str] | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    seed: int | None = None
    tools: list[Any] | None = None
    response_format: _ResponseFormat | None = None


_requests = msgspec.json.Decoder(_ChatRequest)


class TextRequest(msgspec.Struct, frozen=True):
    """One request. ``chat``: it has messages, and its answer is one."""

    prompt: str
    chat: bool
    stream: bool
    usage: bool
    tokens_max: int
    seed: int | None
    json: bool


def read_request(body: bytes, model: str, *, chat: bool) -> TextRequest:
    """The request in a body. Raises RequestError."""
    try:
        read = _requests.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(f"the request is not valid: {error}") from None
    if read.model != model:
        raise RequestError(f"unknown model {read.model!r}; this server has {model!r}", 404)
    if read.n is not None and read.n != 1:
        raise RequestError("n must be 1: this server gives one answer")
    if read.tools:
        raise RequestError("tools are not supported by this model; leave them out")
    limit = read.max_completion_tokens if read.max_completion_tokens is not None else read.max_tokens
    limit = DEFAULT_TOKENS if limit is None else limit
    if not 1 <= limit <= TOKENS_MAX:
        raise RequestError(f"max_tokens must be from 1 to {TOKENS_MAX}, not {limit}")
    usage = read.stream_options is not None and read.stream_options.include_usage
    as_json = read.response_format is not None and read.response_format.type in ("json_object", "json_schema")
    return TextRequest(_prompt(read, chat=chat), chat, read.stream, usage, limit, read.seed, as_json)


def _prompt(read: _ChatRequest, *, chat: bool) -> str:
    if chat:
        if not read.messages:
            raise RequestError("messages are missing: send at least one")
        return " ".join(_text(one.content) for one in read.messages)
    if not read.prompt:
        raise RequestError("the prompt is missing")
    return read.prompt if isinstance(read.prompt, str) else " ".join(read.prompt)


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return " ".join(text for part in content if isinstance(text := part.get("text"), str))
    return content or ""


class TextAnswer:
    """One answer under way: its tokens are written as they are asked for."""

    def __init__(self, model: TextModel, request: TextRequest, number: int) -> None:
        self._request = request
        self._model = model
        kind = "chat.completion" if request.chat else "text_completion"
        self._head: dict[str, Any] = {"id": f"{'chatcmpl' if request.chat else 'cmpl'}-{number}", "object": kind}
        self._head |= {"created": int(time.time()), "model": model.name}
        self._written = 0
        self._finish = "stop"

    def tokens(self) -> Iterator[str]:
        """The text, token by token, at most as many as may be."""
        request = self._request
        words = self._model.write(request.prompt, random.Random(request.seed), 1 if request.json else 2)
        if request.json:
            words = _as_json(words)
        for token in words:
            if self._written == request.tokens_max:
                self._finish = "length"
                return
            self._written += 1
            yield token

    def whole(self, text: str) -> dict[str, Any]:
        """The answer in one piece."""
        said = {"message": {"role": "assistant", "content": text}} if self._request.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": self._finish}
        return {**self._head, "choices": [choice], "usage": self._usage()}

    def opening(self) -> list[bytes]:
        """What a stream begins with."""
        return [self._chunk({"role": "assistant", "content": ""}, None)] if self._request.chat else []

    def token(self, text: str) -> bytes:
        """The event of one token."""
        return self._chunk({"content": text} if self._request.chat else text, None)

    def ending(self) -> list[bytes]:
        """What a stream ends with."""
        events = [self._chunk({} if self._request.chat else "", self._finish)]
        if self._request.usage:
            events.append(self._event({**self._head_of_chunk(), "choices": [], "usage": self._usage()}))
        return [*events, DONE]

    def _chunk(self, said: dict[str, str] | str, finish: str | None) -> bytes:
        part: dict[str, Any] = {"delta": said} if self._request.chat else {"text": said}
        choice = {"index": 0, **part, "finish_reason": finish}
        return self._event({**self._head_of_chunk(), "choices": [choice]})

    def _head_of_chunk(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk"} if self._request.chat else self._head

    def _usage(self) -> dict[str, int]:
        prompt = self._model.tokens_of(self._request.prompt)
        return {"prompt_tokens": prompt, "completion_tokens": self._written, "total_tokens": prompt + self._written}

    @staticmethod
    def _event(content: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % _encoder.encode(content)


def _as_json(words: Iterator[str]) -> Iterator[str]:
    """An object with the text in it; its words need no escapes."""
    return itertools.chain(['{"text": "'], words, ['"}'])
