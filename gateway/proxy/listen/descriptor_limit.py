"""How many clients a worker may take in before it is short of file descriptors."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

# Beside clients and backends: the loop's own, control, log, files that are being read.
_OWN = 16


class DescriptorLimit:
    """Leaves descriptors for upstream connections, so that accepted clients can be served.

    Of what the process may open (RLIMIT_NOFILE, raised to the hard limit as far as it is of use), up to a half is kept
    for connections to backends.
    """

    def __init__(self, clients_max: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * clients_max + 1024
        if soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else max(soft, min(wanted, hard))
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self._usable = max(2, soft - _already_open() - _OWN)

    def room(self, clients: int, upstream_wanted: int) -> bool:
        """Whether one more client can be taken, beside ``clients``, when backends may want that many connections."""
        return clients < self._usable - min(upstream_wanted, self._usable // 2)


def _already_open() -> int:
    try:
        return len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return _OWN
