"""The configuration that was given at run time, over the API. Control's store keeps it (control/journal/store.py).

Rules:

1. It is served as long as the configuration file has the text that it replaced (by its SHA-256), also after a restart.
   So nothing that was set at run time is lost.
2. When the file was changed since, the file wins, but for the versions that routes serve (`gateway.config.keeping`):
   those stay where the file did not change them. What was replaced is written to ``superseded.yaml`` in the state
   directory, and the log says so. So nothing old comes back without the knowledge of who edited the file.
3. It is stored before it is in force, and the table memory (runtime/table_memory.py) has a copy of what is in force.
4. What cannot be read or used (damaged, refused, no valid configuration any more) stops no start: the copy is served in
   its place, without one the file is, and either is said (``trouble``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gateway.config.errors import ConfigError
from gateway.config.files import write_whole
from gateway.config.keeping import roles_of, with_versions_kept
from gateway.config.yaml_text import to_yaml

SUPERSEDED = "superseded.yaml"


class Stored(msgspec.Struct, frozen=True):
    """A configuration that took the place of a file's: its text, who gave it and when, and which text it replaced.

    ``file``: what that text of the file says of backends and roles (`keeping.roles_of`); empty in older state.
    """

    replaces_sha256: str
    text: str
    by: str
    at: str
    file: dict[str, Any] = {}


def sha256_of(text: bytes) -> str:
    """What names the text of a file."""
    return hashlib.sha256(text).hexdigest()


class Effective(NamedTuple):
    """The text to serve, what has replaced the file's (None: nothing), and what is wrong with what was stored."""

    text: bytes
    stored: Stored | None = None
    trouble: str = ""


def effective(text: bytes, found: Stored | None, validate: Callable[[bytes], object] = lambda _: None) -> Effective:
    """What is to be served when the file holds ``text``: that, or what has replaced it.

    ``validate`` raises ConfigError for a text that cannot be used.
    """
    if not replaces(found, text):
        return Effective(text)
    assert found is not None  # or it could replace nothing
    try:
        validate(found.text.encode())
    except ConfigError as error:
        why = (
            f"the configuration that {found.by} gave at {found.at} cannot be used"
            f" ({str(error).partition(chr(10))[0]}): the configuration file is served; give the configuration again"
        )
        return Effective(text, None, why)
    return Effective(found.text.encode(), found)


def from_copy(
    text: bytes, why: str, copy: Stored | None, validate: Callable[[bytes], object] = lambda _: None
) -> Effective:
    """What is to be served when what was stored cannot be read, for the reason ``why``: the copy, or the file."""
    served = effective(text, copy, validate)
    if served.stored is not None:
        kept = f"the copy of the configuration that {served.stored.by} gave at {served.stored.at} is served"
    else:
        kept = "the configuration file is served"
    return served._replace(trouble=f"{why}: {kept}; give the configuration again, or restore a backup")


def replaces(found: Stored | None, text: bytes) -> bool:
    """Whether it was given in place of this text of the file."""
    return found is not None and found.replaces_sha256 == sha256_of(text)


def carried_over(stored: Stored, text: bytes, tree_of: Callable[[bytes], dict[str, Any]]) -> Stored | None:
    """What goes on of it now that the file holds ``text``; None where nothing does.

    ``tree_of`` gives the plain tree of a valid text.
    """
    if not stored.file:
        return None
    new = tree_of(text)
    merged = with_versions_kept(stored.file, tree_of(stored.text.encode()), new)
    if merged == new:
        return None
    return Stored(sha256_of(text), to_yaml(merged), stored.by, stored.at, roles_of(new))


def write_superseded(state_dir: Path, stored: Stored, text: bytes) -> str:
    """Write what was given in place of another text of the file, for people; return what to log. Raises OSError.

    Blocks.
    """
    if stored.text.encode() == text:
        return ""  # the file says the same now
    path = state_dir / SUPERSEDED
    write_whole(path, stored.text.encode())
    return (
        f"the configuration that {stored.by} gave at {stored.at} is no longer served, because the file was changed"
        f" since; it is kept in {path}"
    )
