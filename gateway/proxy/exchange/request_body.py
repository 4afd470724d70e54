"""The body of one request: what has come of it, and what of that is held, and where.

Rules:

1. What has not been sent is held. Beyond that everything is kept from the first byte on, so that it can be sent again,
   until that is given up: `kept` says whether, `not_kept` why not (body_store.py has the reasons).
2. The first bytes are in memory, what follows is in a temporary file. When neither has room, what is not sent yet is
   held in memory all the same, the body is `full`, and its client must be made to wait.
3. An attempt to send it begins with `begin_attempt`: what is in memory goes at once. As long as it is `behind`, `next`
   has the rest, which is to be sent as fast as it is taken and no faster; what comes meanwhile waits its turn.
4. Small pieces are joined, since each costs memory of its own: a client that sends single bytes costs no more than one
   that does not.
5. `close` gives everything back, once.
"""

from __future__ import annotations

from typing import Final

from gateway.proxy.body_store import MEMORY_LIMIT, SMALL_BYTES, TOO_LARGE, BodyFile, BodyStore
from gateway.proxy.compiled import mypyc_attr

# What is held of a body that may not be kept, before it is sent.
UNSENT_BYTES_MAX: Final = 64 * 1024
_READ_BYTES: Final = 64 * 1024
# Pieces that are joined are smaller; the first few of a body are left as they are.
_JOINED_BYTES_MAX: Final = 2048
_FIRST_PIECES: Final = 8


@mypyc_attr(free_list_len=1)
class RequestBody:
    """What has come of one request's body. ``complete``: all of it; ``held_bytes``: what of it is in memory.

    ``attempts``: how often it was begun to send it.
    ``slow``: its client sends slowly, which is to cost the others nothing (body_store.py, rule 2).
    """

    __slots__ = (
        "_file",
        "_file_at",
        "_file_bytes_max",
        "_joined",
        "_kept_bytes_max",
        "_pieces",
        "_store",
        "_tail",
        "attempts",
        "behind",
        "complete",
        "full",
        "held_bytes",
        "kept",
        "lost",
        "not_kept",
        "received",
        "slow",
    )

    def __init__(self, store: BodyStore) -> None:
        self._store = store
        self.received = 0
        self.attempts = 0
        self.complete = False
        self.kept = True
        self.not_kept = ""
        self.full = False
        self.slow = False
        self.behind = False
        self.lost = False
        self.held_bytes = 0
        self._pieces: list[bytes] = []
        self._joined: bytearray | None = None
        self._tail: list[bytes] | None = None
        self._kept_bytes_max = 1 << 20
        self._file_bytes_max = 0
        self._file: BodyFile | None = None
        self._file_at = 0

    def limit(self, kept_bytes_max: int, file_bytes_max: int) -> None:
        """Say how much is kept in memory, and how much more in a file."""
        self._kept_bytes_max = kept_bytes_max
        self._file_bytes_max = file_bytes_max

    # what comes

    def hold(self, piece: bytes) -> None:
        """A piece has come that cannot be sent yet."""
        self.received += len(piece)
        reason = self._put(piece, max(self._kept_bytes_max, UNSENT_BYTES_MAX))
        if reason:
            self.give_up(reason)
            self.full = True
            if self._tail is None:
                self._tail = []
            self._tail.append(piece)
            self._charge(len(piece))
            self.behind = True

    def keep(self, piece: bytes) -> None:
        """A piece has come, and was sent: keep it for another attempt, if that goes on."""
        self.received += len(piece)
        if self.kept:
            reason = self._put(piece, self._kept_bytes_max)
            if reason:
                self.give_up(reason)
                self._drop()

    def give_up(self, reason: str) -> None:
        """Keep no more than what was not sent yet. ``reason`` is empty where nothing was to be kept anyway."""
        if self.kept:
            self.kept = False
            self.not_kept = reason
            if reason:
                self._store.refused(reason)

    def _put(self, piece: bytes, in_memory_max: int) -> str:
        """Store a piece; the reason when there is no room for it."""
        count = len(piece)
        held_bytes = self.held_bytes + count
        if self.full:
            return self.not_kept or MEMORY_LIMIT
        if self._file is None:
            if held_bytes <= in_memory_max:
                store = self._store
                bytes_max = store.slow_bytes_max if self.slow else store.memory_bytes_max
                if held_bytes <= SMALL_BYTES or store.memory_bytes + count <= bytes_max:
                    self._append(piece, count)
                    return ""
                reason = MEMORY_LIMIT
            else:
                reason = TOO_LARGE
            if not self._file_bytes_max:
                return reason
            opened = self._store.open()
            if isinstance(opened, str):
                return opened
            self._file = opened
        if self._file.size + count > self._file_bytes_max:
            return TOO_LARGE
        return self._file.append(piece)

    def _append(self, piece: bytes, count: int) -> None:
        self.held_bytes += count
        self._store.memory_bytes += count
        if self._joined is None:
            self._pieces.append(piece)
            if count < _JOINED_BYTES_MAX and len(self._pieces) > _FIRST_PIECES:
                self._joined = bytearray()
        else:
            self._joined += piece
            if len(self._joined) >= _READ_BYTES:
                self._pieces.append(bytes(self._joined))
                self._joined = None

    def _charge(self, count: int) -> None:
        self.held_bytes += count
        self._store.memory_bytes += count

    # what is sent

    def begin_attempt(self) -> list[bytes]:
        """Send it from its first byte on: what is in memory is here, and `next` has the rest."""
        if self._joined:  # an empty piece would be written as the end of all chunks
            self._pieces.append(bytes(self._joined))
        self._joined = None
        self.attempts += 1
        self._file_at = 0
        self.behind = self._file is not None or self._tail is not None
        return self._pieces

    def sent(self) -> None:
        """What `begin_attempt` has given is sent: let go of it, unless it is kept."""
        if self.kept and self.held_bytes > self._kept_bytes_max and not self._file_bytes_max:
            self.give_up(TOO_LARGE)
        if not self.kept and not self.behind and self.held_bytes:
            self._drop()

    def next(self) -> bytes:
        """The next piece to send; empty and no longer `behind` when there is none yet, or `lost`: it cannot be read."""
        file = self._file
        if file is not None and self._file_at < file.size:
            try:
                piece = file.read(self._file_at, _READ_BYTES)
            except OSError as error:
                self._store.failed(error)
                piece = b""
            self.lost = not piece
            self._file_at += len(piece)
            return piece
        if self._tail:
            piece = self._tail.pop(0)
            self._charge(-len(piece))
            return piece
        self._tail = None
        self.behind = self.full = False
        if not self.kept:
            self._drop()
        return b""

    def whole_in_memory(self) -> list[bytes] | None:
        """All of it; None when it is not complete, or not kept, or a part of it is in a file."""
        if not self.complete or not self.kept or self.full or self._file is not None or self._tail is not None:
            return None
        if self._joined:
            self._pieces.append(bytes(self._joined))
        self._joined = None
        return self._pieces

    def replace(self, whole: bytes) -> None:
        """Another body takes the place of this one, of which nothing was sent."""
        self._drop()
        self._append(whole, len(whole))

    @property
    def sent_whole(self) -> bool:
        """Whether all of it has come, and the present attempt has sent it."""
        return self.complete and not self.behind

    # the end

    def close(self) -> None:
        """Let go of everything."""
        self.kept = False
        if self.held_bytes or self._file is not None:
            self._drop()

    def _drop(self) -> None:
        self._pieces.clear()
        self._joined = self._tail = None
        self.behind = False
        self._charge(-self.held_bytes)
        file, self._file = self._file, None
        if file is not None:
            file.close()
