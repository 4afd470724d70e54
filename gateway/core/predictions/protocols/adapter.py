"""What an adapter of a protocol can say of an answer: whether it is good, what it holds, what its events are.

Rules:

1. An adapter holds no state but its configuration, and believes no body: `classify` and `stream` never raise, `extract`
   raises UndecodableError and nothing else, whatever the bytes are.
2. `classify` looks at one answer alone. Which of its findings count as failures of a version is decided by what stable
   answers (usual.py).
3. An event that adds text and gives the reason of the end at once is an END with that text. Of a stream with several
   ends (`finish_reason`, then `[DONE]`) each is one.
4. Counts of tokens are totals so far, not what an event adds: the last one that is given counts.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from gateway.core.predictions.outputs import Output, WholeAnswer

_SHOWN_MAX = 3


class ProtocolName(enum.StrEnum):
    """The protocols by the names that the configuration gives them."""

    AUTO = "auto"
    OIP = "oip"
    KSERVE_V1 = "kserve_v1"
    MLFLOW = "mlflow"
    OPENAI = "openai"
    TRITON_GENERATE = "triton_generate"
    JSON = "json"


class Recognised(msgspec.Struct, frozen=True):
    """The protocol of an answer, and by what that is known: path, body or configuration."""

    name: ProtocolName
    by: str

    def __str__(self) -> str:
        """In words, such as ``openai (by the path)``."""
        return f"{self.name.value} (by the {self.by})"


def in_words(counts: Sequence[tuple[Recognised, int]]) -> str:
    """How many answers were in which protocol, the most frequent ones.

    >>> in_words([(Recognised(ProtocolName.OPENAI, "path"), 1200)])
    'openai (by the path): 1,200 answers'
    """
    shown = ", ".join(f"{recognised}: {n:,}" for recognised, n in counts[:_SHOWN_MAX])
    return f"{shown} answers" if shown else ""


class AnswerClass(enum.StrEnum):
    """What an answer is, whatever its status says."""

    OK = "ok"
    MODEL_ERROR = "model_error"
    CLIENT_ERROR = "client_error"
    OVERLOAD = "overload"


class EventKind(enum.StrEnum):
    """What one event of a stream is. OTHER: it opens the stream, keeps it alive, or counts tokens."""

    OTHER = "other"
    TOKEN = "token"  # noqa: S105 - a piece of text, no secret
    END = "end"
    ERROR = "error"


class ToolCall(msgspec.Struct, frozen=True):
    """What an answer says of one call of a tool; in a stream, what an event adds to it. ``index`` tells calls apart."""

    index: int
    name: str = ""
    arguments: str = ""


class StreamEvent(msgspec.Struct, frozen=True):
    """One event, or one JSON line: ``text`` (and the others) is what it adds, ``finish`` the reason of the end."""

    kind: EventKind
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tools: tuple[ToolCall, ...] = ()
    finish: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str = ""


class ProtocolAdapter(Protocol):
    """One protocol."""

    def classify(self, answer: WholeAnswer) -> AnswerClass:
        """What a whole answer is, by its status and by what it says."""

    def extract(self, answer: WholeAnswer) -> list[Output]:
        """What it holds, by name. Raises UndecodableError."""

    def stream(self, data: bytes, name: bytes = b"") -> StreamEvent:
        """What one event is: its data, or one line; ``name`` is the event's type."""
