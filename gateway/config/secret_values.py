"""Values that do not stand in the configuration file: secrets, from the environment or from files of their own.

The file is read, copied and shown. What is wrong with a secret is said without the secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.config.errors import BadValue

_SECRET_CHARS_MAX = 4096


def variable(name: str, environ: Mapping[str, str]) -> str:
    """The value of an environment variable. Raises BadValue for one that is not set."""
    try:
        return environ[name]
    except KeyError:
        raise BadValue(f"the environment variable {name} is not set", "set it, or remove the key") from None


def secret(env: str | None, file: Path | None, environ: Mapping[str, str]) -> str | None:
    """The secret in the variable or the file, without white space around it; None where neither is named."""
    if env is not None:
        return variable(env, environ).strip()
    if file is None:
        return None
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(_SECRET_CHARS_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadValue(f"cannot read {file}: {why}", "put the secret into a file that can be read") from None


def needed_secret(env: str | None, file: Path | None, environ: Mapping[str, str]) -> str:
    """As `secret`, where there has to be one."""
    text = secret(env, file, environ)
    if not text:
        where = env or (file and str(file)) or "the configuration"
        raise BadValue(f"the secret in {where} is empty", "put the secret there")
    return text
