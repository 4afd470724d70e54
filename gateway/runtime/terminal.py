"""Whether the terminal that the gateway was started from is still there: its end sends a SIGHUP, not for a reload.

SIGHUP asks a service to read its configuration again; a terminal that is closed sends the same signal. So a SIGHUP that
comes with the loss of the terminal means the end, any other means a reload. Who was started under nohup asked to
outlive its terminal, and who lost it without a SIGHUP (a job in the background of a shell that ended) does: both go on.
"""

from __future__ import annotations

import os
import signal

# So many looks without a terminal and without a SIGHUP: it was lost in silence.
_LOOKS = 3
LOOK_S = 1.0


class Terminal:
    """Made when the gateway starts, before it listens for signals."""

    def __init__(self) -> None:
        self._ours = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _is_attached()
        self._missed = 0

    def closed(self) -> bool:
        """Asked at a SIGHUP: whether the terminal's end has sent it."""
        return self._ours and not _is_attached()

    def look(self) -> None:
        """Called every `LOOK_S`: a terminal that went away without a SIGHUP is forgotten."""
        if self._ours:
            self._missed = 0 if _is_attached() else self._missed + 1
            self._ours = self._missed < _LOOKS


def _is_attached() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
