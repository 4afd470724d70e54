"""The last routing table in force, kept where a process that starts finds it without asking control or the journal.

Rules:

1. Control writes every table here before it publishes it (a promotion is in the journal by then): into memory that the
   supervisor owns and every child inherits, and soon after into ``table.json`` in the state directory. So neither a
   control process that hangs nor a disk that does keeps a worker that starts from what is in force.
2. Each copy carries the SHA-256 of its content. The shared memory is two anonymous files, written in turn: a write that
   is cut short leaves the one before. The file is written beside, synced, and renamed. What does not fit its digest, or
   is of another format, is no memory.
3. Nobody gives a canary anything by memory: a worker that starts from it sends all to stable until control speaks, and
   counts under epoch 0, which is no evidence. What it brings is which version is stable.
4. The table is used whole with the text of the configuration file that it was made under (by its SHA-256), routes and
   backends that came in over the API included. Under another text only promotions are taken over: where the file names
   the stable backend that was promoted over, and has the promoted one among its backends.
5. A configuration that was given at run time is remembered with the table: where control's store cannot be read, this
   copy is what it serves by.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, Self

import msgspec

from gateway.core.traffic.table import Route, RoutingTable

NAME = "table.json"
_FORMAT = 1


class Given(msgspec.Struct, frozen=True):
    """A configuration that was given at run time: in place of which text of the file, its text, by whom and when.

    ``file``: what that text of the file says of the versions that routes serve (config/keeping.py).
    """

    replaces_sha256: str
    text: str
    by: str
    at: str
    file: dict[str, Any] = {}


class Remembered(msgspec.Struct, frozen=True):
    """A table that was in force.

    ``config_sha256`` names the text of the configuration file of then. ``configured``: whom the configuration named as
    stable, by route. ``journal_seq``: the newest event in the journal when the table was published. ``from_file``: it
    was read from the state directory, which may have missed the newest.
    """

    config_sha256: str
    journal_seq: int
    configured: dict[str, str]
    table: RoutingTable
    from_file: bool = False
    given: Given | None = None
    format: int = _FORMAT

    def promoted(self, route: str, configured: str, table: RoutingTable) -> str | None:
        """Who was promoted to stable on a route, if that holds under a configuration with this table (rule 4)."""
        kept = next((kept for kept in self.table.routes if kept.name == route), None)
        if kept is None or self.configured.get(route) != configured:
            return None
        return kept.stable if kept.stable not in ("", configured) and kept.stable in table.backends else None


class _Sealed(msgspec.Struct):
    sha256: str
    content: msgspec.Raw


def encode(remembered: Remembered) -> bytes:
    """The bytes to keep, with their digest."""
    content = msgspec.json.encode(remembered)
    return msgspec.json.encode(_Sealed(hashlib.sha256(content).hexdigest(), msgspec.Raw(content)))


def decode(data: bytes) -> Remembered | None:
    """What `encode` has written; None when it is anything else."""
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
        if hashlib.sha256(sealed.content).hexdigest() != sealed.sha256:
            return None
        found = msgspec.json.decode(sealed.content, type=Remembered)
    except (ValueError, msgspec.MsgspecError):
        return None
    return found if found.format == _FORMAT else None


class SharedTable:
    """The memory that all processes of one gateway share. One process writes: control."""

    def __init__(self, fds: tuple[int, int]) -> None:
        self.fds = fds
        self._next = 0

    @classmethod
    def create(cls) -> Self:
        """New memory, empty. Raises OSError."""
        return cls((_anonymous(), _anonymous()))

    def read(self) -> Remembered | None:
        """The newest table in it."""
        found = [(decode(_content(fd)), index) for index, fd in enumerate(self.fds)]
        known = [(kept.table.epoch, index, kept) for kept, index in found if kept is not None]
        if not known:
            return None
        _, newest, kept = max(known, key=lambda one: one[0])
        self._next = 1 - newest
        return kept

    def write(self, data: bytes) -> None:
        """Keep what `encode` made, in place of the older of the two. Raises OSError."""
        fd = self.fds[self._next]
        os.ftruncate(fd, 0)
        view = memoryview(data)
        while view:
            view = view[os.pwrite(fd, view, len(data) - len(view)) :]
        self._next = 1 - self._next

    def close(self) -> None:
        """Let go of it."""
        for fd in self.fds:
            os.close(fd)


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("gateway-table")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _content(fd: int) -> bytes:
    # At its own offset: the descriptor's is shared with the other processes.
    size, data = os.fstat(fd).st_size, b""
    while len(data) < size and (piece := os.pread(fd, size - len(data), len(data))):
        data += piece
    return data


def read_file(state_dir: Path) -> tuple[Remembered | None, str]:
    """What the state directory remembers; and, when there is a file that cannot be used, why not. Blocks."""
    path = state_dir / NAME
    try:
        found = decode(path.read_bytes())
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"{path} cannot be read: {error.strerror}"
    if found is None:
        return None, f"{path} is damaged"
    return msgspec.structs.replace(found, from_file=True), ""


def first_table(own: RoutingTable, config_sha256: str, remembered: Remembered | None) -> RoutingTable:
    """What a worker serves by until control speaks (rules 3 and 4); ``own`` is what the configuration file says."""
    if remembered is not None and remembered.config_sha256 == config_sha256:
        own = remembered.table
    elif remembered is not None:
        own = msgspec.structs.replace(own, routes=tuple(_promoted(route, own, remembered) for route in own.routes))
    return msgspec.structs.replace(own.stable_only(), epoch=0)


def _promoted(route: Route, own: RoutingTable, remembered: Remembered) -> Route:
    stable = remembered.promoted(route.name, route.stable, own)
    if stable is None:
        return route
    canary = None if route.canary == stable else route.canary
    return msgspec.structs.replace(route, stable=stable, canary=canary, weight_bp=0)
