"""Content codings undone: the bytes of a sampled answer as its client reads them, piece by piece and within bounds.

Rules:

1. A list of codings is undone from its end (RFC 9110, 8.4): ``gzip``, ``x-gzip``, ``deflate``, ``br`` and ``zstd``;
   ``identity`` changes nothing. ``br`` and ``zstd`` need a package (`brotli` or `brotlicffi`; `zstandard`, or Python
   3.14).
2. gzip: all members one after the other; zero bytes after the last one are padding, and other bytes after it are
   ignored, as gzip itself does (RFC 1952, 2.2). ``deflate`` is zlib (RFC 1950) or, as many servers send it, the raw
   form (RFC 1951). zstd: all frames.
3. Output is bounded: beyond ``limit`` bytes the body is not read on, however little input it takes.
4. What cannot be decoded is *unread*, never wrong: `UnreadError` names one of `UNREAD` and says what was found. So is a
   body that ends before its coding does.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from gateway.core.errors import GatewayError
from gateway.core.predictions.failures import BROKEN_CODING, TOO_LARGE, UNKNOWN_CODING

_CODINGS_MAX = 4
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b"
# Kept of a deflated body until it is known in which form it is.
_PROBE_BYTES = 4096
# So much is undone at once of a body that may unfold to more than is read.
_STEP_BYTES = 512
# Packages that cannot bound their output are fed so little at a time that a piece unfolds to some megabytes at most:
# a block of zstd needs 4 bytes for 128 KiB, one of brotli as many for 16 MiB.
_ZSTD_PIECE, _BROTLI_PIECE = 128, 4
# RFC 9659: no more may be asked of those who undo `zstd`.
_ZSTD_WINDOW_LOG = 23


class UnreadError(GatewayError):
    """An answer's coding cannot be undone; ``reason`` is one of `UNREAD`."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class Codec(Protocol):
    """One coding of one body. Both methods raise UnreadError."""

    def feed(self, data: bytes, limit: int) -> bytes:
        """What this piece adds; TOO_LARGE when it is more than ``limit`` bytes."""

    def end(self) -> None:
        """The body is over: raise when its coding is not."""


class Decoder:
    """All codings of one body. ``limit`` is how many bytes it may unfold to. Raises UnreadError, also when made."""

    def __init__(self, codings: str, limit: int) -> None:
        names = [name for part in codings.lower().split(",") if (name := part.strip()) not in ("", "identity")]
        if len(names) > _CODINGS_MAX:
            raise UnreadError(UNKNOWN_CODING, f"{len(names)} content codings, one after the other, are too many")
        self.codings = bool(names)
        self._codecs = [_codec(name) for name in reversed(names)]
        self._left = limit

    def feed(self, data: bytes) -> bytes:
        """What this piece of the body says."""
        for codec in self._codecs:
            data = codec.feed(data, self._left)
        self._left -= len(data)
        if self._left < 0:
            raise _too_large()
        return data

    def end(self) -> None:
        """The body is over, and whole."""
        for codec in self._codecs:
            codec.end()


def decoded(codings: str, body: bytes, limit: int) -> bytes:
    """A whole body with its codings undone. Raises UnreadError."""
    decoder = Decoder(codings, limit)
    read = decoder.feed(body)
    decoder.end()
    return read


def beginning(codings: str, body: bytes, limit: int, *, cut: bool = False) -> tuple[bytes, bool]:
    """As much of a body as can be read within ``limit``, and whether that is all of it. Raises UnreadError.

    ``cut``: only the beginning of the body is at hand.
    """
    decoder, read = Decoder(codings, limit), []
    step = _STEP_BYTES if decoder.codings else max(len(body), 1)
    for start in range(0, len(body), step):
        try:
            read.append(decoder.feed(body[start : start + step]))
        except UnreadError as error:
            if error.reason != TOO_LARGE or not read:
                raise
            return b"".join(read), False
    if not cut:
        decoder.end()
    return b"".join(read), not cut


def _too_large() -> UnreadError:
    return UnreadError(TOO_LARGE, "it is over the limit when decompressed")


def _broken(coding: str, why: object) -> UnreadError:
    return UnreadError(BROKEN_CODING, f"content-encoding {coding}: {why}")


class _Gzip:
    def __init__(self) -> None:
        self._member: Any = zlib.decompressobj(_GZIP_BITS)
        self._between = b""
        self._fed = self._over = False

    def feed(self, data: bytes, limit: int) -> bytes:
        out: list[bytes] = []
        self._fed = self._fed or bool(data)
        while data and not self._over:
            if self._member is None:
                data = (self._between + data).lstrip(b"\0")
                self._between = b""
                if len(data) < len(_GZIP_MAGIC) and _GZIP_MAGIC.startswith(data):
                    self._between, data = data, b""
                elif data.startswith(_GZIP_MAGIC):
                    self._member = zlib.decompressobj(_GZIP_BITS)
                else:
                    self._over = True
                continue
            piece, limit = _inflated(self._member, "gzip", data, limit)
            out.append(piece)
            data = b""
            if self._member.eof:
                data, self._member = self._member.unused_data, None
        return b"".join(out)

    def end(self) -> None:
        if self._member is not None and self._fed:
            raise _broken("gzip", "the compressed data are truncated")


class _Deflate:
    def __init__(self) -> None:
        self._form: Any = None
        self._raw = False
        self._given = 0
        self._probe: bytes | None = b""

    def feed(self, data: bytes, limit: int) -> bytes:
        if self._form is not None and self._form.eof:
            return b""
        if self._probe is None:
            return _inflated(self._form, "deflate", data, limit)[0]
        # Bytes that look like zlib's may be raw after all, so the beginning is kept for a second try.
        self._probe += data
        if len(self._probe) < 2:
            return b""
        if self._form is None:
            zlibs = self._probe[0] & 0x0F == 8 and int.from_bytes(self._probe[:2], "big") % 31 == 0
            self._form = zlib.decompressobj(_ZLIB_BITS if zlibs else _RAW_BITS)
            self._raw, data = not zlibs, self._probe
        try:
            piece = _inflated(self._form, "deflate", data, limit)[0]
        except UnreadError as error:
            if self._raw or error.reason != BROKEN_CODING or self._given:
                raise
            self._raw, self._form = True, zlib.decompressobj(_RAW_BITS)
            piece = _inflated(self._form, "deflate", self._probe, limit)[0]
        self._given += len(piece)
        if len(self._probe) > _PROBE_BYTES or self._raw or self._given:
            self._probe = None
        return piece

    def end(self) -> None:
        if self._probe != b"" and not (self._form is not None and self._form.eof):
            raise _broken("deflate", "the compressed data are truncated")


def _inflated(member: Any, coding: str, data: bytes, limit: int) -> tuple[bytes, int]:
    """What the piece adds, and how much more it might have been."""
    try:
        piece: bytes = member.decompress(data, limit + 1)
    except zlib.error as error:
        raise _broken(coding, error) from None
    if len(piece) > limit:
        raise _too_large()
    return piece, limit - len(piece)


class _Brotli:
    """By `brotli` or `brotlicffi`, of which only recent releases bound their output."""

    def __init__(self, package: Any) -> None:
        made = package.Decompressor()
        self._decompress = made.process if hasattr(made, "process") else made.decompress
        self._made, self._error, self._fed = made, package.error, False

    def feed(self, data: bytes, limit: int) -> bytes:
        out, size = [], 0
        self._fed = self._fed or bool(data)
        for start in range(0, len(data), _BROTLI_PIECE):
            if self._made.is_finished():
                break
            try:
                piece = self._decompress(data[start : start + _BROTLI_PIECE])
            except self._error as error:
                raise _broken("br", error) from None
            out.append(piece)
            size += len(piece)
            if size > limit:
                raise _too_large()
        return b"".join(out)

    def end(self) -> None:
        if self._fed and not self._made.is_finished():
            raise _broken("br", "the compressed data are truncated")


class _Zstd:
    """By `compression.zstd` or `zstandard`: ``make`` gives what undoes one frame."""

    def __init__(self, make: Callable[[], Any], error: type[Exception]) -> None:
        self._make, self._error = make, error
        self._frame: Any = None

    def feed(self, data: bytes, limit: int) -> bytes:
        out, size, start = [], 0, 0
        while start < len(data):
            if self._frame is None:
                self._frame = self._make()
            given = data[start : start + _ZSTD_PIECE]
            start += len(given)
            try:
                piece = self._frame.decompress(given)
            except self._error as error:
                raise _broken("zstd", error) from None
            if self._frame.eof:
                start -= len(self._frame.unused_data)
                self._frame = None
            out.append(piece)
            size += len(piece)
            if size > limit:
                raise _too_large()
        return b"".join(out)

    def end(self) -> None:
        if self._frame is not None:
            raise _broken("zstd", "the compressed data are truncated")


def _codec(name: str) -> Codec:
    if name in ("gzip", "x-gzip"):
        return _Gzip()
    if name == "deflate":
        return _Deflate()
    if name == "br":
        package = _imported("brotli", "brotlicffi")
        if package is not None:
            return _Brotli(package)
        raise UnreadError(UNKNOWN_CODING, "content-encoding br: install the package brotli to have it read")
    if name == "zstd":
        if (package := _imported("compression.zstd")) is not None:
            options = {package.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
            return _Zstd(lambda: package.ZstdDecompressor(options=options), package.ZstdError)
        if (package := _imported("zstandard")) is not None:
            frames = package.ZstdDecompressor(max_window_size=1 << _ZSTD_WINDOW_LOG)
            return _Zstd(frames.decompressobj, package.ZstdError)
        raise UnreadError(UNKNOWN_CODING, "content-encoding zstd: install the package zstandard to have it read")
    raise UnreadError(UNKNOWN_CODING, f"content-encoding {name[:40]!r} is not known")


_found: dict[str, Any] = {}


def _imported(*names: str) -> Any:
    """The first of these modules that can be imported; None without any."""
    for name in names:
        if name not in _found:
            try:
                _found[name] = importlib.import_module(name)
            except ImportError:
                _found[name] = None
        if _found[name] is not None:
            return _found[name]
    return None
