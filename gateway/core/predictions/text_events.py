"""What language models' answers say, as yes/no events and as numbers, under names that are known beforehand.

Rules:

1. Every answer that is a text (text_answers.py) and came to its end is a trial of `EMPTY_ANSWER`, `REFUSAL`,
   `BAD_ARGUMENTS`, the reasons for its end and the tools' names, also when it calls none: so few calls hold nothing up.
   It is a trial of `JSON_TEXT` where its text is known.
2. A refusal is an answer that says so itself, or whose beginning has one of the configured phrases.
3. The tools that are told apart are the most frequent ones of stable's first `WARM_UP` answers that call one, and are
   numbered in the order of their names; any other is `TOOL_OTHER`. No answer is a trial of them before that. An answer
   with several calls speaks through its first.
4. Of the length the logarithm of two is the number: so a text of twice the length is one more, however long texts are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import msgspec

from gateway.core.predictions.text_answers import REASONS, TextFacts
from gateway.core.types import Variant

EMPTY_ANSWER, REFUSAL, JSON_TEXT, BAD_ARGUMENTS = "empty_answer", "refusal", "json_text", "bad_tool_arguments"
FINISH = tuple(f"finish_{reason}" for reason in REASONS)
TOOLS_KEPT = 5
TOOL_NAMES = tuple(f"tool_{index}" for index in range(TOOLS_KEPT))
TOOL_OTHER = "tool_other"
ANSWER_LENGTH, PROMPT_TOKENS, COMPLETION_TOKENS = "answer_length", "prompt_tokens", "completion_tokens"
EVENT_NAMES = (EMPTY_ANSWER, REFUSAL, JSON_TEXT, BAD_ARGUMENTS, *FINISH, *TOOL_NAMES, TOOL_OTHER)
BOUNDS: Mapping[str, tuple[float, float]] = {
    ANSWER_LENGTH: (0.0, 16.0),
    PROMPT_TOKENS: (0.0, 32_768.0),
    COMPLETION_TOKENS: (0.0, 8_192.0),
}
"""The numbers, and what they are clipped to: the logarithm of two of the characters, and tokens."""
TEXT_METRICS = (*EVENT_NAMES, *BOUNDS)
WARM_UP = 50
PHRASES = (
    "i can't help",
    "i can't assist",
    "i can't provide",
    "i can't fulfill",
    "i cannot help",
    "i cannot assist",
    "i cannot provide",
    "i cannot fulfill",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i am not able to",
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "as an ai language model",
    "i must decline",
    "i won't be able to",
)
"""How models refuse, in lower case."""


class TextSettings(msgspec.Struct, frozen=True):
    """What is looked for in a route's texts."""

    refusals: tuple[str, ...] = PHRASES


class TextSeen(msgspec.Struct, frozen=True):
    """One answer: yes/no events with their result, and numbers."""

    labels: list[tuple[str, bool]]
    values: list[tuple[str, float]]


class TextWatch:
    """One route's texts: what stable has shown of its tools, and what that makes of the next answer."""

    def __init__(self, settings: TextSettings) -> None:
        self._refusals = tuple(phrase.lower() for phrase in settings.refusals)
        self._first: list[str] = []
        self._tools: dict[str, str] | None = None

    @property
    def meanings(self) -> dict[str, str]:
        """Which tool each number stands for."""
        return {event: f"the tool {name}" for name, event in (self._tools or {}).items()}

    def take(self, variant: Variant, facts: TextFacts) -> TextSeen:
        """One answer that came to its end."""
        labels = [(EMPTY_ANSWER, facts.empty), (REFUSAL, self._refuses(facts))]
        labels += [(event, facts.reason == reason) for event, reason in zip(FINISH, REASONS, strict=True)]
        if facts.json is not None:
            labels.append((JSON_TEXT, facts.json))
        labels.append((BAD_ARGUMENTS, facts.arguments is False))
        labels += self._tool(variant, facts.tools[0] if facts.tools else None)
        values = [(ANSWER_LENGTH, math.log2(1 + facts.chars))] if facts.chars else []
        for name, tokens in ((PROMPT_TOKENS, facts.prompt_tokens), (COMPLETION_TOKENS, facts.completion_tokens)):
            if tokens is not None:
                values.append((name, float(tokens)))
        return TextSeen(labels, values)

    def _refuses(self, facts: TextFacts) -> bool:
        if facts.refused:
            return True
        start = facts.start.lower().replace("\u2019", "'")
        return any(phrase in start for phrase in self._refusals)

    def _tool(self, variant: Variant, name: str | None) -> list[tuple[str, bool]]:
        if self._tools is None:
            if variant is Variant.STABLE and name is not None:
                self._first.append(name)
                if len(self._first) >= WARM_UP:
                    kept = sorted(name for name, _ in Counter(self._first).most_common(TOOLS_KEPT))
                    self._tools = dict(zip(kept, TOOL_NAMES, strict=False))
                    self._first = []
            return []
        said = None if name is None else self._tools.get(name, TOOL_OTHER)
        return [(event, event == said) for event in (*self._tools.values(), TOOL_OTHER)]
