"""The configuration that was given at run time, kept beside the journal: ``config.json`` in the state directory.

Rules:

1. It holds as long as the file that the gateway is started with is the one that it replaced (told by its SHA-256): also
   after a restart. So nothing that was set at run time is lost.
2. When the file was changed since, the file wins: what was replaced is set aside as ``config.superseded.json``, and the
   log says so. So nothing old comes back behind the back of whoever edited the file.
3. It is written whole or not at all, and is on the disk before it is in force. A second copy is written after it,
   ``config.last-good.json``.
4. What cannot be read or used (damaged, not permitted, a text that is no configuration any more) stops no start: the
   last good copy is served in its place, without one the file is, and either is said (``trouble``). What was damaged
   stays where it is until the next change or until somebody deletes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.config.errors import ConfigError
from gateway.config.files import sync_folder, write_whole

NAME = "config.json"
LAST_GOOD = "config.last-good.json"
SUPERSEDED = "config.superseded.json"


class Stored(msgspec.Struct, frozen=True):
    """A configuration that took the place of a file's: its text, who gave it and when, and which text it replaced."""

    replaces_sha256: str
    text: str
    by: str
    at: str


def sha256_of(text: bytes) -> str:
    """What names the text of a file."""
    return hashlib.sha256(text).hexdigest()


class Effective(NamedTuple):
    """The text to serve, what has replaced the file's (None: nothing), and what is wrong with what was kept."""

    text: bytes
    stored: Stored | None = None
    trouble: str = ""


def effective(text: bytes, state_dir: Path, sound: Callable[[bytes], object] = lambda _: None) -> Effective:
    """What is to be served when the file holds ``text``: that, or what has replaced it. Changes nothing.

    ``sound`` raises ConfigError for a text that cannot be used.
    """
    path = state_dir / NAME
    kept = _usable(path, text, sound)
    if kept is None:
        return Effective(text)
    if isinstance(kept, Stored):
        return Effective(kept.text.encode(), kept)
    spare = _usable(state_dir / LAST_GOOD, text, sound)
    if isinstance(spare, Stored):
        why = f"{path} {kept}: the last good copy is served, which {spare.by} gave at {spare.at}"
        return Effective(spare.text.encode(), spare, f"{why}; give the configuration anew, or delete both")
    why = f"{path} {kept}, and there is no good copy: what the configuration file says is served"
    return Effective(text, None, f"{why}; give the configuration anew, or delete it")


def _usable(path: Path, text: bytes, sound: Callable[[bytes], object]) -> Stored | str | None:
    """What has replaced ``text``, why it cannot be used, or None when nothing has."""
    try:
        found = _read(path)
        if found is None or found.replaces_sha256 != sha256_of(text):
            return None
        sound(found.text.encode())
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ConfigError as error:
        return f"cannot be used ({str(error).partition(chr(10))[0]})"
    except (ValueError, RecursionError):
        return "is damaged"
    return found


def _read(path: Path) -> Stored | None:
    try:
        return msgspec.convert(json.loads(path.read_bytes()), Stored)
    except (FileNotFoundError, NotADirectoryError):
        return None


def set_aside(text: bytes, state_dir: Path) -> str:
    """Put away what replaced another text than this one; returns what to tell people, empty when there is nothing."""
    try:
        stored = _read(state_dir / NAME)
    except (OSError, ValueError, RecursionError):
        return ""  # `effective` says so
    if stored is None or stored.replaces_sha256 == sha256_of(text):
        return ""
    (state_dir / NAME).replace(state_dir / SUPERSEDED)
    (state_dir / LAST_GOOD).unlink(missing_ok=True)
    if stored.text.encode() == text:
        return ""
    return (
        f"the configuration that {stored.by} gave at {stored.at} is no longer served: the file was changed since;"
        f" it is kept in {state_dir / SUPERSEDED}"
    )


def write_stored(state_dir: Path, stored: Stored | None) -> None:
    """Keep it, or None to serve what the file says again. On return it is on the disk; raises OSError when it is not.

    Blocks.
    """
    if stored is None:
        for name in (NAME, LAST_GOOD):
            (state_dir / name).unlink(missing_ok=True)
        sync_folder(state_dir)
        return
    data = msgspec.json.format(msgspec.json.encode(stored))
    for name in (NAME, LAST_GOOD):
        write_whole(state_dir / name, data)
