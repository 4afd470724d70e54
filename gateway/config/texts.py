"""What is looked for in the answers of language models (`routes[].analysis.texts`), and how it is judged.

Texts are found by the form of the answers, so there is nothing to switch on: on a route without any these metrics are
silent. An answer that says nothing, and arguments that no tool can read, are harm by themselves. More refusals, or less
JSON where stable answers JSON, are harm beyond a small tolerance. A shift of the reasons for the end, of the tools that
are called, or of the length is harm beyond a large one only: a better model changes them, too.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.config.predictions import ModeKey
from gateway.config.section import Section
from gateway.config.shape import Doc, Noun
from gateway.core.analysis.spec import EventSpec, Mode, Worse
from gateway.core.predictions.text_events import (
    ANSWER_LENGTH,
    BAD_ARGUMENTS,
    BOUNDS,
    COMPLETION_TOKENS,
    EMPTY_ANSWER,
    FINISH,
    JSON_TEXT,
    PHRASES,
    PROMPT_TOKENS,
    REFUSAL,
    TOOL_NAMES,
    TOOL_OTHER,
    TextSettings,
)

_SHARE = 0.005
_FAULT_MARGIN = 0.02
# Of each the ratio and the delta of the tolerance, then those of the margin.
_HARM = (1.5, 0.02, 2.0, 0.07)
_LESS_JSON = (1.0, 0.02, 1.0, 0.07)
_REASONS = (1.0, 0.1, 1.0, 0.2)
_TOOLS = (1.0, 0.25, 1.0, 0.35)
# In parts of 16 doublings: twice or half as long is tolerated, three times (or a third) is within the margin.
_LENGTH = (1.0, 1 / 16, 1.0, 0.1)
_TOKENS = (1.1, 0.0, 1.5, 0.05)
_FILTERED = "finish_content_filter"

Phrase = Annotated[str, Field(min_length=3, max_length=200), Noun("a phrase")]


class TextsConfig(Section):
    """How the answers of language models are looked at."""

    mode: Annotated[
        ModeKey,
        Doc(
            "`mode` of these metrics. `auto`: they decide where answers are a language model's; `off`: not read. They "
            "are read in the samples that `model_errors` takes. One that is listed in `events`, too, is judged as it "
            "says there. `prompt_tokens` and `completion_tokens` never decide."
        ),
    ] = Mode.AUTO
    refusals: Annotated[
        list[Phrase],
        Field(max_length=100),
        Doc(
            "Phrases, of which one in the first 240 characters makes an answer a `refusal`; upper and lower case are "
            "alike. An answer that says by its protocol that it refuses always is one."
        ),
    ] = list(PHRASES)

    def settings(self) -> TextSettings:
        """What the inspector looks for."""
        return TextSettings(tuple(self.refusals))

    def events(self, errors_margin: float = 0.0) -> tuple[EventSpec, ...]:
        """The metrics; ``errors_margin`` is the ``margin_delta`` of `errors`."""
        fault = (1.0, 0.0, 1.5, max(_FAULT_MARGIN, errors_margin))
        reasons = dict.fromkeys(FINISH, (Worse.DIFFERENT, _REASONS)) | {_FILTERED: (Worse.HIGHER, _HARM)}
        rates = [
            *((name, Worse.HIGHER, fault) for name in (EMPTY_ANSWER, BAD_ARGUMENTS)),
            (REFUSAL, Worse.HIGHER, _HARM),
            (JSON_TEXT, Worse.LOWER, _LESS_JSON),
            *((name, *found) for name, found in reasons.items()),
            *((name, Worse.DIFFERENT, _TOOLS) for name in (*TOOL_NAMES, TOOL_OTHER)),
        ]
        advises = Mode.OFF if self.mode is Mode.OFF else Mode.ADVISE
        means = [
            (ANSWER_LENGTH, self.mode, Worse.DIFFERENT, _LENGTH),
            (PROMPT_TOKENS, advises, Worse.HIGHER, _TOKENS),
            (COMPLETION_TOKENS, advises, Worse.HIGHER, _TOKENS),
        ]
        yes_or_no = (EventSpec(name, self.mode, worse, *bounds, _SHARE) for name, worse, bounds in rates)
        numbers = (
            EventSpec(name, mode, worse, *bounds, _SHARE, bounds=BOUNDS[name]) for name, mode, worse, bounds in means
        )
        return (*yes_or_no, *numbers)
