"""PEM files that a configuration names: taken into a context, or refused in words that say how to fix them."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

from gateway.config.errors import BadValue

_BYTES_MAX = 4 << 20


def take_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Load a certificate chain and its key. Raises BadValue when they cannot be used."""
    _check_file(certificate)
    _check_file(key)
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        hint = "use a certificate chain and its key as PEM files that this user may read, the key without a passphrase"
        raise BadValue(f"cannot use {certificate} with {key}: {_why(error)}", hint) from None


def take_authorities(context: ssl.SSLContext, path: Path) -> None:
    """Load a CA's certificates. Raises BadValue when they cannot be used."""
    _check_file(path)
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        hint = "use the CA's certificates as a PEM file that this user may read"
        raise BadValue(f"cannot use {path}: {_why(error)}", hint) from None


def _check_file(path: Path) -> None:
    """Refuse what OpenSSL would wait for, or read without end: a directory, a pipe, a device, anything huge."""
    try:
        found = path.stat()
    except OSError:
        return  # the one who opens it says why
    if not stat.S_ISREG(found.st_mode):
        raise BadValue(f"cannot use {path}: it is not a file", "use a PEM file")
    if found.st_size > _BYTES_MAX:
        raise BadValue(f"cannot use {path}: it holds more than {_BYTES_MAX} bytes", "use a PEM file")


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _no_passphrase() -> str:
    # Without this OpenSSL would ask for one on the terminal.
    raise ValueError("the key has a passphrase")
