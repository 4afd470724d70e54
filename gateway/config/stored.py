"""The configuration that was given at run time, kept beside the journal: ``config.json`` in the state directory.

Rules:

1. It holds as long as the file that the gateway is started with is the one that it replaced (told by its SHA-256): also
   after a restart. So nothing that was set at run time is lost.
2. When the file was changed since, the file wins: what was replaced is set aside as ``config.superseded.json``, and the
   log says so. So nothing old comes back behind the back of whoever edited the file.
3. It is written whole or not at all, and is on the disk before it is in force.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import msgspec

from gateway.config.mistakes import ConfigError, Mistake

NAME = "config.json"
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


def effective(text: bytes, state_dir: Path) -> tuple[bytes, Stored | None]:
    """What is to be served when the file holds ``text``: that, or what has replaced it. Changes nothing.

    Raises ConfigError when there is something that has replaced it, and it cannot be read.
    """
    stored = read_stored(state_dir)
    if stored is None or stored.replaces_sha256 != sha256_of(text):
        return text, None
    return stored.text.encode(), stored


def set_aside(text: bytes, state_dir: Path) -> str:
    """Put away what replaced another text than this one; returns what to tell people, empty when there is nothing."""
    stored = read_stored(state_dir)
    if stored is None or stored.replaces_sha256 == sha256_of(text):
        return ""
    (state_dir / NAME).replace(state_dir / SUPERSEDED)
    if stored.text.encode() == text:
        return ""
    return (
        f"the configuration that {stored.by} gave at {stored.at} is no longer served: the file was changed since;"
        f" it is kept in {state_dir / SUPERSEDED}"
    )


def read_stored(state_dir: Path) -> Stored | None:
    """What has replaced a file's text; None without such a thing. Raises ConfigError when it cannot be read."""
    path = state_dir / NAME
    try:
        return msgspec.convert(json.loads(path.read_bytes()), Stored)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged"
        mend = "mend it, or delete it to serve what the file says"
        raise ConfigError([Mistake(str(path), "", None, None, f"cannot be read: {why}", mend)]) from None


def write_stored(state_dir: Path, stored: Stored | None) -> None:
    """Keep it, or None to serve what the file says again. On return it is on the disk; raises OSError when it is not.

    Blocks.
    """
    path = state_dir / NAME
    if stored is None:
        path.unlink(missing_ok=True)
    else:
        fresh = path.with_suffix(".new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(stored)))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
