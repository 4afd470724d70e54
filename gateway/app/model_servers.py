"""The model servers that sources brought, kept running: the supervisor's children are what the deployments' file says.

The file is looked at each second, and at the start. A server whose entry is gone is stopped as any child is: it ends
the requests that it has. A model that cannot be loaded is tried again, ever later, and stops nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from gateway.runtime.deployments import NAME, ServedModel, read_deployments
from gateway.runtime.file_marks import marks_of
from gateway.runtime.process import Child
from gateway.runtime.supervisor import Supervisor

_log = logging.getLogger("gateway.supervisor")
_LOOK_S = 0.2
_PREFIX = "model server "


async def keep_model_servers(supervisor: Supervisor, state_dir: Path) -> None:
    """Start and stop model servers as the file says, for ever."""
    running: dict[str, ServedModel] = {}
    marks: object = None
    while True:
        now = marks_of((state_dir / NAME,))
        if now != marks:
            marks = now
            deployed = read_deployments(state_dir).deployed
            wanted = {one.backend: one.server for one in deployed if one.server is not None}
            for backend in [name for name, server in running.items() if wanted.get(name) != server]:
                _log.warning("%s%s: stopping, nothing is routed to it any more", _PREFIX, backend)
                del running[backend]
                await supervisor.remove(f"{_PREFIX}{backend}")
            for backend, server in wanted.items():
                if backend not in running:
                    _log.warning("%s%s: serving %s on port %d", _PREFIX, backend, server.path, server.port)
                    supervisor.add(_child(backend, server))
                    running[backend] = server
        await asyncio.sleep(_LOOK_S)


def _child(backend: str, server: ServedModel) -> Child:
    arguments = (
        *("model-server", server.path, "--name", server.name, "--version", server.version),
        *("--port", str(server.port), "--threads", str(server.threads)),
    )
    # After the workers, which may still have requests for it.
    return Child(f"{_PREFIX}{backend}", "gateway", b"", arguments=arguments, stop_rank=2, vital=False)
