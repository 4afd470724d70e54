"""The console's files, read once into memory: each with its media type, its tag, and compressed.

Rules:

1. What is served is what is in this package: a path is looked up by its whole text, so that none leads elsewhere.
2. A browser may keep a file, but asks each time whether it is still the one (``no-cache`` and the tag): after an
   upgrade nobody mixes old modules with new ones.
3. The page runs what comes from this listener, as files. Nothing inline, nothing evaluated, nothing from elsewhere, in
   no frame (`HEADERS`); text becomes text, since markup that is made of strings is refused by the browser
   (``require-trusted-types-for``).
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType

import msgspec

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": "; ".join(_POLICY),
        "cache-control": "no-cache",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-frame-options": "DENY",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
    }
)


class ConsoleFile(msgspec.Struct, frozen=True):
    """One file as it is served; ``zipped`` is the same, compressed."""

    body: bytes
    zipped: bytes
    media_type: str
    tag: str


@functools.cache
def files() -> Mapping[str, ConsoleFile]:
    """All files by their path on the listener."""
    package = resources.files("gateway.console")
    found = {f"/console/{name}": _read(part) for name, part in _walk(package / "static", "")}
    found |= {f"/console/vendor/{name}": _read(part) for name, part in _walk(package / "vendor", "")}
    return MappingProxyType({"/": found.pop("/console/index.html"), **found})


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for part in sorted(folder.iterdir(), key=lambda part: part.name):
        if part.is_dir():
            found += _walk(part, f"{prefix}{part.name}/")
        elif _suffix(part.name) in _TYPES:
            found.append((f"{prefix}{part.name}", part))
    return found


def _read(part: Traversable) -> ConsoleFile:
    body = part.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return ConsoleFile(body, gzip.compress(body, 9, mtime=0), _TYPES[_suffix(part.name)], tag)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""
