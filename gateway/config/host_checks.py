"""What a configuration needs of the machine: the admin's tokens and certificates, and a directory for the state.

Nothing is created and nothing is bound here. A token's value never appears in a message.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.config.admin import AdminConfig, AdminTlsConfig, Scope, TokenConfig
from gateway.config.cross_checks import at, listen_address
from gateway.config.errors import BadValue, Issue, TreePath, issues_in, show
from gateway.config.grammar import UnixSocket, environment_name, file_path
from gateway.config.pem import take_authorities, take_chain
from gateway.config.section import DEFAULT_ADMIN

TOKEN_CHARS_MIN = 16
TOKEN_CHARS_MAX = 4096
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")


class Key(msgspec.Struct, frozen=True):
    """What lets a principal in: the SHA-256 of a token, in hexadecimal. The name is empty for the one token of old."""

    name: str
    scopes: tuple[Scope, ...]
    sha256: str


def admin_keys(admin: AdminConfig, environ: Mapping[str, str]) -> tuple[Key, ...]:
    """All that lets in by a token. Raises BadValue when one cannot be had."""
    first = admin_token(admin, environ)
    keys = [] if first is None else [Key("", (Scope.ADMIN,), sha256_of(first))]
    return (*keys, *(Key(token.name, tuple(token.scopes), _sha256(token, environ)) for token in admin.tokens))


def sha256_of(token: str) -> str:
    """The hash under which a token is kept."""
    return hashlib.sha256(token.encode("latin-1")).hexdigest()


def _sha256(token: TokenConfig, environ: Mapping[str, str]) -> str:
    if token.env is not None:
        return sha256_of(_token_of_environment(token.env, environ))
    if token.file is not None:
        return sha256_of(_token_of_file(token.file))
    assert token.sha256 is not None  # exactly one of the three: see `token_issues`
    return token.sha256


def admin_tls(tls: AdminTlsConfig) -> ssl.SSLContext:
    """The context of the admin listener: TLS 1.2 or newer. Raises BadValue when a file of it cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    take_chain(context, tls.cert_file, tls.key_file)
    if tls.client_ca_file is not None:
        take_authorities(context, tls.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def admin_token(admin: AdminConfig, environ: Mapping[str, str]) -> str | None:
    """The bearer token of the admin API, None when none is configured. Raises BadValue when it cannot be had."""
    if admin.token_env is not None:
        return _token_of_environment(admin.token_env, environ)
    return None if admin.token_file is None else _token_of_file(admin.token_file)


def _token_of_environment(name: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name)
    if value is None:
        hint = f"set it to a token of at least {TOKEN_CHARS_MIN} characters"
        raise BadValue(f"the environment variable {name} is not set", hint)
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


def token_issues(tree: Any, environ: Mapping[str, str] | None, base: Path) -> Iterator[Issue]:
    """What is wrong with the admin's tokens, read from the plain tree like the rules of `cross_checks`.

    Without ``environ`` they are another machine's: neither variables nor files are looked at.
    """
    name, file = at(tree, "admin", "token_env"), at(tree, "admin", "token_file")
    tokens = at(tree, "admin", "tokens")
    if name is None and file is None and not tokens:
        yield from _token_needed(tree)
    if name is not None and file is not None:
        yield Issue(("admin", "token_file"), "token_env is set too", "keep one of the two")
    yield from _unreadable(("admin", "token_env"), name, ("admin", "token_file"), file, environ, base)
    for index, token in enumerate(tokens if isinstance(tokens, list) else ()):
        here: TreePath = ("admin", "tokens", index)
        env, path = at(token, "env"), at(token, "file")
        if isinstance(token, dict) and sum(at(token, kind) is not None for kind in ("sha256", "env", "file")) != 1:
            yield Issue(here, "needs exactly one of sha256, env and file", "keep one, or add one")
        yield from _unreadable((*here, "env"), env, (*here, "file"), path, environ, base)
    yield from _names_differ(("admin", "tokens"), tokens)
    yield from _names_differ(("admin", "tls", "clients"), at(tree, "admin", "tls", "clients"))


def _unreadable(
    env_at: TreePath, env: Any, file_at: TreePath, file: Any, environ: Mapping[str, str] | None, base: Path
) -> Iterator[Issue]:
    if environ is None:
        return
    if isinstance(env, str):
        yield from issues_in(env_at, lambda: _token_of_environment(environment_name(env), environ))
    if isinstance(file, str):
        yield from issues_in(file_at, lambda: _token_of_file(base / file_path(file)))


def _names_differ(path: TreePath, items: Any) -> Iterator[Issue]:
    seen: set[str] = set()
    for index, item in enumerate(items if isinstance(items, list) else ()):
        name = at(item, "name")
        if isinstance(name, str) and name in seen:
            yield Issue((*path, index, "name"), f"duplicate name {show(name)}", "names must be unique")
        elif isinstance(name, str):
            seen.add(name)


def _token_needed(tree: Any) -> Iterator[Issue]:
    admin = listen_address(at(tree, "admin", "listen"), DEFAULT_ADMIN)
    certified = at(tree, "admin", "tls", "client_ca_file") is not None and at(tree, "admin", "tls", "clients")
    if admin and not admin.loopback and not certified:
        problem = f"{admin} can be reached from other machines, and no token is required there"
        hint = "set admin.token_env, admin.token_file, admin.tokens or admin.tls.clients, or listen on 127.0.0.1"
        yield Issue(("admin", "listen"), problem, hint)


def tls_issues(admin: AdminConfig) -> Iterator[Issue]:
    """Whether the certificates of the admin listener can be used."""
    tls = admin.tls
    if tls is not None and isinstance(admin.listen, UnixSocket):
        yield Issue(("admin", "tls"), "a Unix socket is not encrypted", "remove tls, or listen on an address")
    elif tls is not None:
        yield from issues_in(("admin", "tls", "cert_file"), lambda: admin_tls(tls))
        if tls.clients and tls.client_ca_file is None:
            problem = "without client_ca_file no client certificate is asked for"
            yield Issue(("admin", "tls", "clients"), problem, "add client_ca_file")


def state_dir_issues(path: Path) -> Iterator[Issue]:
    """Whether the state directory is one, or could be made; whether it can be written to is `state_dir_warning`."""
    try:
        nearest = _nearest(path)
    except OSError:
        return
    if not nearest.is_dir():
        yield Issue(("state_dir",), f"{nearest} is not a directory", "use another directory")


def state_dir_warning(path: Path) -> str:
    """Why nothing can be stored there, empty when it can. It is served all the same, as with any other lost disk."""
    try:
        nearest = _nearest(path)
        if os.access(nearest, os.W_OK | os.X_OK):
            return ""
        why = f"this user cannot write to {nearest}"
    except OSError as error:
        why = f"cannot use {path}: {error.strerror}"
    return f"{why}: stable alone is served, and no rollout starts; permit it, or use another directory"


def _nearest(path: Path) -> Path:
    """The directory, or the nearest one above it that is there. Raises OSError."""
    return next(here for here in (path, *path.parents) if here.exists() or here.is_symlink())
