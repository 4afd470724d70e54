"""From a configuration file to a running process tree: what must be ours before the first child is born."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.app import state
from gateway.app.config_watch import on_kubernetes_volume
from gateway.app.tree import ProcessTree
from gateway.config.admin import AdminConfig
from gateway.config.grammar import UnixSocket
from gateway.config.host_checks import admin_keys
from gateway.config.load import load, read
from gateway.config.warnings import warnings
from gateway.runtime import listening, orphans
from gateway.runtime.logs import flush, log_to_stderr
from gateway.runtime.table_memory import SharedTable, encode

_log = logging.getLogger("gateway.supervisor")
# A socket's name has 107 bytes on Linux, 103 elsewhere; ours is /control.sock in there.
_SOCKET_DIRECTORY_BYTES_MAX = 90
# After the gateway before this one was killed, an address that is in use may be free in a moment.
_DYING_S = 3.0


def serve(config_path: Path, *, fd: int | None = None, admin_fd: int | None = None, watch: bool | None = None) -> int:
    """Serve until a signal to stop; returns the exit status. Raises ConfigError for an invalid configuration.

    ``fd`` and ``admin_fd`` are listening sockets that this process was given, in place of ``listen`` and
    ``admin.listen``; without them systemd's are looked for. ``watch``: the file is read again when it changes; None:
    where Kubernetes replaces it.
    """
    text = read(config_path)
    config = load(config_path, text=text, for_serving=True)
    keys = admin_keys(config.admin, os.environ)
    log_to_stderr("supervisor", config.log_format)
    for warning in warnings(config):
        _log.warning("%s: %s", config_path, warning)
    if fd is None:
        given = listening.from_systemd(os.environ)
        fd = given[0] if given else None
        admin_fd = given[1] if len(given) > 1 else admin_fd
    with contextlib.ExitStack() as held:
        try:
            _own(config.state_dir, held)
            memory, found = _memory(config.state_dir)
            wait_until_s = time.monotonic()
            if (killed := state.runtime_directory(config.state_dir)) is not None:
                orphans.clear(killed)
                wait_until_s = time.monotonic() + _DYING_S
            if fd is None:
                listeners = listening.listen(config.listen.host, config.listen.port, config.workers, wait_until_s)
            else:
                listeners = [listening.inherited(fd)] * config.workers
            admin = held.enter_context(_admin_listener(config.admin, admin_fd, wait_until_s, has_token=bool(keys)))
            directory = Path(held.enter_context(_private_directory()))
            state.keep_runtime_directory(config.state_dir, directory)
        except OSError as error:
            flush()
            print(f"gateway: {error.strerror}: {error.filename}", file=sys.stderr)
            return 1
        if watch is None:
            watch = on_kubernetes_volume(config_path)
        tree = ProcessTree(*(config_path, text, config, keys, listeners, admin, directory, memory, found), watch=watch)
        status = asyncio.run(tree.run())
        state.forget_runtime_directory(config.state_dir)
        return status


@contextlib.contextmanager
def _admin_listener(
    admin: AdminConfig, fd: int | None, wait_until_s: float, *, has_token: bool
) -> Iterator[socket.socket]:
    """The admin's socket, bound or inherited. Raises OSError as `listening` does.

    Without a token (``has_token``) an inherited socket must be as private as `admin.listen` has to be.
    """
    if fd is not None:
        listener = listening.inherited(fd, unix=True)
        certified = admin.tls is not None and admin.tls.client_ca_file is not None and bool(admin.tls.clients)
        if not has_token and not certified and not listening.private(listener):
            where = f"{fd}: add admin.token_env, admin.token_file or admin.tokens, or listen on 127.0.0.1"
            raise OSError(0, "the inherited admin socket is reachable from other machines without a token", where)
        yield listener
    elif isinstance(admin.listen, UnixSocket):
        with listening.unix_socket(Path(admin.listen.path), wait_until_s) as listener:
            yield listener
    else:
        yield listening.listen(admin.listen.host, admin.listen.port, 1, wait_until_s)[0]


def _own(state_dir: Path, held: contextlib.ExitStack) -> None:
    """Hold the directory for this gateway as long as it lives.

    One that cannot be used stops nobody: control serves stable only and says so. Raises OSError with the directory in
    ``filename`` when another gateway has it.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        _log.error("the state directory %s cannot be used: %s", state_dir, error.strerror)  # no trace
        return
    held.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        problem = "another gateway is using this state directory, stop it or name another in state_dir"
        raise OSError(error.errno, problem, str(state_dir)) from error
    except OSError:
        pass  # a file system without locks on directories; the journal has a lock of its own


def _memory(state_dir: Path) -> tuple[SharedTable, state.RememberedState]:
    """The memory that the children share, with what the state directory remembers in it; and what was lost.

    Raises OSError.
    """
    found = state.look(state_dir)
    memory = SharedTable.create()
    if found.remembered is not None:
        memory.write(encode(found.remembered))
    elif found.lost:
        _log.error("%s", found.lost)
    return memory, found


def _private_directory() -> tempfile.TemporaryDirectory[str]:
    """Where the control socket lives. Raises OSError where sockets' names would become too long for the system."""
    directory = tempfile.TemporaryDirectory(prefix=state.RUNTIME_PREFIX, ignore_cleanup_errors=True)
    if len(os.fsencode(directory.name)) > _SOCKET_DIRECTORY_BYTES_MAX:
        directory.cleanup()
        raise OSError(errno.ENAMETOOLONG, "the path of the directory for temporary files is too long", directory.name)
    return directory
