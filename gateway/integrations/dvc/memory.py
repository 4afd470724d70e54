"""What a DVC source remembers, because nothing is written to the repository: one small file in the state directory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from gateway.config.files import write_whole

_SETTLED_MAX = 50


class AnsweredRequests(msgspec.Struct, frozen=True):
    """The last request that was answered, and the rollouts whose ends are settled.

    ``subject`` is what the source follows, ``order`` the number of the request's tag, ``key`` the request itself.
    """

    subject: str = ""
    order: int = 0
    key: str = ""
    settled: tuple[str, ...] = ()


class RequestMemory:
    """The file. Each change is on the disk when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = _read(path)

    def answered(self, subject: str, order: int, key: str) -> bool:
        """Whether this request was answered, or an assignment that came after it."""
        now = self._now
        return now.subject == subject and (now.key == key or order < now.order)

    def is_settled(self, rollout: str) -> bool:
        """Whether all was done that follows the end of this rollout."""
        return rollout in self._now.settled

    async def answer(self, subject: str, order: int, key: str) -> None:
        """Remember that this request is answered. Raises OSError."""
        await self._write(AnsweredRequests(subject, order, key, self._now.settled))

    async def settle(self, rollout: str) -> None:
        """Remember that this rollout is settled. Raises OSError."""
        await self._write(msgspec.structs.replace(self._now, settled=(*self._now.settled, rollout)[-_SETTLED_MAX:]))

    async def _write(self, now: AnsweredRequests) -> None:
        await asyncio.to_thread(self._path.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(write_whole, self._path, msgspec.json.format(msgspec.json.encode(now)))
        self._now = now


def _read(path: Path) -> AnsweredRequests:
    try:
        return msgspec.json.decode(path.read_bytes(), type=AnsweredRequests)
    except (OSError, msgspec.DecodeError):
        return AnsweredRequests()
