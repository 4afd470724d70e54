"""What a language model answered, in numbers and yes or no: its text is read and forgotten.

Rules:

1. Read are answers that a protocol's adapter knows as text (protocols/), whole or event by event. Of an answer without
   text, tools, a refusal, a reason for its end or a count of tokens nothing is said: it is of another kind.
2. Kept while a stream is under way, and of no longer text than this: `START_CHARS` of its beginning for refusals,
   `JSON_CHARS` of what begins as JSON does, `ARGUMENTS_CHARS` of each of `TOOLS_MAX` tools' arguments. What is longer
   is no trial of what needed it whole.
3. Only an answer that came to its end says anything.
4. Reasons for the end have many names; `_REASONS` says which are the same.
"""

from __future__ import annotations

import msgspec

from gateway.core.predictions.protocols.adapter import StreamEvent, ToolCall

STOP, LENGTH, TOOLS, FILTER, OTHER = "stop", "length", "tool_calls", "content_filter", "other"
REASONS = (STOP, LENGTH, TOOLS, FILTER, OTHER)
"""Why an answer ended."""

START_CHARS = 240
JSON_CHARS = 64 * 1024
ARGUMENTS_CHARS = 16 * 1024
TOOLS_MAX = 16
_NAME_CHARS = 64
_REASONS = {
    STOP: STOP,
    "eos": STOP,
    "eos_token": STOP,
    "end_turn": STOP,
    "stop_sequence": STOP,
    "completed": STOP,
    LENGTH: LENGTH,
    "max_tokens": LENGTH,
    "max_output_tokens": LENGTH,
    TOOLS: TOOLS,
    "function_call": TOOLS,
    "tool_use": TOOLS,
    FILTER: FILTER,
    "refusal": FILTER,
    "safety": FILTER,
}


class TextFacts(msgspec.Struct, frozen=True):
    """What is known of one answer; None for what is unknown.

    ``start`` is the beginning of its text, for whoever looks for refusals in it. ``refused``: the answer says so
    itself. ``json``: its text is one JSON object or list. ``arguments``: those of all its tools are JSON objects.
    """

    chars: int
    start: str = ""
    reason: str | None = None
    tools: tuple[str, ...] = ()
    arguments: bool | None = None
    json: bool | None = None
    refused: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def empty(self) -> bool:
        """Whether it says nothing at all."""
        return not (self.chars or self.tools or self.refused or self.reason in (FILTER, TOOLS))


class _KnownCall:
    """One call of a tool: its name, and its arguments as far as they are kept."""

    __slots__ = ("arguments", "chars", "name")

    def __init__(self) -> None:
        self.name = ""
        self.arguments: list[str] = []
        self.chars = 0

    def add(self, call: ToolCall) -> None:
        """What an event adds."""
        self.name = self.name or call.name[:_NAME_CHARS]
        self.chars += len(call.arguments)
        if call.arguments and self.chars <= ARGUMENTS_CHARS:
            self.arguments.append(call.arguments)

    @property
    def valid(self) -> bool | None:
        """Whether the arguments are a JSON object, or there are none; None for what was not kept."""
        if self.chars > ARGUMENTS_CHARS:
            return None
        text = "".join(self.arguments)
        return not text.strip() or isinstance(_json(text), dict)


class TextReader:
    """One answer: `add` its events, or the whole as one event, then ask for its `facts`."""

    def __init__(self) -> None:
        self._chars = 0
        self._start = ""
        # None once it is too long, or cannot be JSON.
        self._json: list[str] | None = []
        self._finish = ""
        self._calls: dict[int, _KnownCall] = {}
        self._refused = False
        self._prompt: int | None = None
        self._completion: int | None = None

    def add(self, event: StreamEvent) -> None:
        """One more event."""
        if event.text:
            self._say(event.text)
        self._chars += len(event.reasoning)
        self._finish = event.finish or self._finish
        self._refused = self._refused or bool(event.refusal)
        for call in event.tools:
            known = self._calls.get(call.index)
            if known is None:
                if len(self._calls) >= TOOLS_MAX:
                    continue
                known = self._calls[call.index] = _KnownCall()
            known.add(call)
        if event.prompt_tokens is not None:
            self._prompt = event.prompt_tokens
        if event.completion_tokens is not None:
            self._completion = event.completion_tokens

    def _say(self, text: str) -> None:
        self._chars += len(text)
        if len(self._start) < START_CHARS:
            self._start = (self._start + text)[:START_CHARS]
        if self._json is not None:
            self._json.append(text)
            if self._chars > JSON_CHARS or self._start.lstrip()[:1] not in ("", "{", "["):
                self._json = None

    def facts(self) -> TextFacts | None:
        """What the answer says; None for one that is no text (rule 1)."""
        counted = self._prompt is not None or self._completion is not None
        if not (self._chars or self._calls or self._finish or self._refused or counted):
            return None
        json: bool | None = None
        if self._start and self._json is not None:
            json = isinstance(_json("".join(self._json)), dict | list)
        elif self._start and self._start.lstrip()[:1] not in ("{", "["):
            json = False
        valid = [call.valid for call in self._calls.values()]
        arguments = None if not valid else False if False in valid else None if None in valid else True
        reason = _REASONS.get(self._finish.lower(), OTHER) if self._finish else None
        names = tuple(call.name for call in self._calls.values() if call.name)
        return TextFacts(
            self._chars,
            self._start,
            TOOLS if reason == STOP and names else reason,
            names,
            arguments,
            json,
            self._refused,
            self._prompt,
            self._completion,
        )


def _json(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return None
