"""What a configuration needs of the machine: the admin token, and a directory for the state.

Nothing is created and nothing is bound here. The token's value never appears in a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.config.grammar import environment_name, file_path
from gateway.config.mistakes import BadValue, Flaw, TreePath
from gateway.config.relations import at, listen_address
from gateway.config.schema import DEFAULT_ADMIN, AdminConfig

TOKEN_CHARS_MIN = 16
TOKEN_CHARS_MAX = 4096
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")


def admin_token(admin: AdminConfig, environ: Mapping[str, str]) -> str | None:
    """The bearer token of the admin API, None when none is configured. Raises BadValue when it cannot be had."""
    if admin.token_env is not None:
        return _token_of_environment(admin.token_env, environ)
    return None if admin.token_file is None else _token_of_file(admin.token_file)


def _token_of_environment(name: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name)
    if value is None:
        mend = f"set it to a token of at least {TOKEN_CHARS_MIN} characters"
        raise BadValue(f"the environment variable {name} is not set", mend)
    return _checked(value, f"the token in {name}")


def _token_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            value = file.read(TOKEN_CHARS_MAX + 3)
    except OSError as error:
        raise BadValue(f"cannot read {path}: {error.strerror}", "put the token into a file that can be read") from None
    return _checked(value.decode("latin-1"), f"the token in {path}")


def _checked(value: str, what: str) -> str:
    token = value.strip()
    if len(token) < TOKEN_CHARS_MIN:
        raise BadValue(f"{what} has {len(token)} characters", f"use at least {TOKEN_CHARS_MIN}")
    if len(token) > TOKEN_CHARS_MAX:
        raise BadValue(f"{what} is too long", f"use at most {TOKEN_CHARS_MAX} characters")
    if not _VISIBLE_ASCII.fullmatch(token):
        raise BadValue(f"{what} holds spaces or characters outside ASCII", "use letters, digits and - . _ ~ + / =")
    return token


def token_flaws(tree: Any, environ: Mapping[str, str], base: Path) -> Iterator[Flaw]:
    """What is wrong with the admin token, read from the plain tree like the rules of `relations`."""
    name, file = at(tree, "admin", "token_env"), at(tree, "admin", "token_file")
    if name is None and file is None:
        yield from _token_needed(tree)
    if name is not None and file is not None:
        yield Flaw(("admin", "token_file"), "token_env is given too", "keep one of the two")
    if isinstance(name, str):
        yield from _refusal(("admin", "token_env"), lambda: _token_of_environment(environment_name(name), environ))
    if isinstance(file, str):
        yield from _refusal(("admin", "token_file"), lambda: _token_of_file(base / file_path(file)))


def _token_needed(tree: Any) -> Iterator[Flaw]:
    admin = listen_address(at(tree, "admin", "listen"), DEFAULT_ADMIN)
    if admin and not admin.loopback:
        problem = f"{admin} can be reached from other machines, and no token is required there"
        yield Flaw(("admin", "listen"), problem, "add admin.token_env or admin.token_file, or listen on 127.0.0.1")


def _refusal(path: TreePath, read: Callable[[], str]) -> Iterator[Flaw]:
    try:
        read()
    except BadValue as bad:
        yield Flaw(path, bad.problem, bad.mend)


def state_dir_flaws(path: Path) -> Iterator[Flaw]:
    """Whether the state directory is there and writable, or could be made."""
    try:
        nearest = next(here for here in (path, *path.parents) if here.exists() or here.is_symlink())
        if not nearest.is_dir():
            yield Flaw(("state_dir",), f"{nearest} is not a directory", "name a directory, or one that can be created")
        elif not os.access(nearest, os.W_OK | os.X_OK):
            yield Flaw(("state_dir",), f"this user cannot write to {nearest}", "permit it, or name another directory")
    except OSError as error:
        yield Flaw(("state_dir",), f"cannot use {path}: {error.strerror}", "name another directory")
