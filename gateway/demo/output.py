"""Output without a terminal: one JSON object per line, or one plain line per event."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

import msgspec

from gateway.demo.progress import DemoEvent, DemoProgress
from gateway.demo.summary import Summary, page

_PLAIN_WIDTH = 100


class DemoOutput(AbstractContextManager["DemoOutput"], Protocol):
    """Shows the demo as it runs; a context manager, so that a terminal is left as it was found."""

    def show_event(self, event: DemoEvent) -> None:
        """Something has happened."""

    def show(self, progress: DemoProgress, now_s: float) -> None:
        """Some time has passed (about eight times a second)."""

    def end(self, summary: Summary) -> None:
        """The demo has ended."""


class JsonLines:
    """For machines: one JSON object per event, the summary last."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def show_event(self, event: DemoEvent) -> None:
        """Print the event with its data."""
        write_line(msgspec.json.encode({"event": event.event, "t_s": event.t_s, **event.data}).decode())

    def show(self, progress: DemoProgress, now_s: float) -> None:
        """Nothing: the events are the output."""

    def end(self, summary: Summary) -> None:
        """Print the summary."""
        write_line(msgspec.json.encode(summary).decode())


class PlainLines(JsonLines):
    """For logs and pipes: one line per event, the summary as text."""

    def show_event(self, event: DemoEvent) -> None:
        """Print the event's sentence."""
        write_line(f"{event.t_s:6.1f} s  {event.text}")

    def end(self, summary: Summary) -> None:
        """Print the summary."""
        write_line("\n" + page(summary, _PLAIN_WIDTH))


def write_line(line: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
