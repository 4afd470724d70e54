"""How the story is told without a terminal: one JSON object per line, or one plain line per event."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

import msgspec

from gateway.demo.story import Story, StoryEvent
from gateway.demo.summary import Summary, page

_PLAIN_WIDTH = 100


class Narrator(AbstractContextManager["Narrator"], Protocol):
    """Tells the story as it goes; a context manager, so that a terminal is left as it was found."""

    def tell(self, told: StoryEvent) -> None:
        """Something has happened."""

    def show(self, story: Story, now_s: float) -> None:
        """Some time has passed (about eight times a second)."""

    def end(self, summary: Summary) -> None:
        """The story is over."""


class JsonLines:
    """For machines: one JSON object per event, the summary last."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def tell(self, told: StoryEvent) -> None:
        """Print the event with its data."""
        write_line(msgspec.json.encode({"event": told.event, "t_s": told.t_s, **told.data}).decode())

    def show(self, story: Story, now_s: float) -> None:
        """Nothing: events tell it all."""

    def end(self, summary: Summary) -> None:
        """Print the summary."""
        write_line(msgspec.json.encode(summary).decode())


class PlainLines(JsonLines):
    """For logs and pipes: one line per event, the summary as text."""

    def tell(self, told: StoryEvent) -> None:
        """Print the event's sentence."""
        write_line(f"{told.t_s:6.1f} s  {told.text}")

    def end(self, summary: Summary) -> None:
        """Print the summary."""
        write_line("\n" + page(summary, _PLAIN_WIDTH))


def write_line(line: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
