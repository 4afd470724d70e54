"""A receiver that is a program of this machine: each attempt runs it once.

It gets the message on standard input and its id in ``GATEWAY_EVENT_ID``; no shell is between. One that takes too long
is killed, with all that it has started.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.hooks.delivery import NotDeliveredError
from gateway.hooks.envelope import Message
from gateway.runtime.programs import ProgramError, run_program


class Command:
    """A receiver that is a program of this machine."""

    def __init__(self, arguments: Sequence[str], timeout_s: float) -> None:
        self._arguments = arguments
        self._timeout_s = timeout_s

    async def deliver(self, message: Message) -> None:
        """Run the program with the message on its standard input."""
        try:
            await run_program(
                self._arguments,
                message.body,
                self._timeout_s,
                environ={"GATEWAY_EVENT_ID": message.id},
                silenced=True,
            )
        except ProgramError as error:
            raise NotDeliveredError(str(error)) from None
