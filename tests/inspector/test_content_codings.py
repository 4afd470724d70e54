"""Content codings: all that the standard allows is undone, in whatever pieces it comes; the rest is unread."""

from __future__ import annotations

import gzip
import importlib
import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from gateway.core.predictions.failures import BROKEN_CODING, TOO_LARGE, UNKNOWN_CODING, UNREAD
from gateway.inspector import decoding
from gateway.inspector.decoding import Decoder, UnreadError, beginning, decoded

TEXT = b'{"outputs": [1, 2, 3]}' * 40
HALF = len(TEXT) // 2
LIMIT = 1 << 20


def raw_deflate(data: bytes) -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return made.compress(data) + made.flush()


def stored(text: bytes, first: int) -> bytes:
    """A raw deflate block that is not compressed; ``first`` holds its type and five bits that mean nothing."""
    length = len(text).to_bytes(2, "little")
    return bytes((first,)) + length + bytes(255 - byte for byte in length) + text


GOOD: dict[str, tuple[str, bytes]] = {
    "no coding": ("", TEXT),
    "identity": ("identity", TEXT),
    "gzip": ("gzip", gzip.compress(TEXT)),
    "x-gzip, in capitals": (" X-GZip ", gzip.compress(TEXT)),
    "two members": ("gzip", gzip.compress(TEXT[:HALF]) + gzip.compress(TEXT[HALF:])),
    "an empty member": ("gzip", gzip.compress(b"") + gzip.compress(TEXT)),
    "zero padding between and after": (
        "gzip",
        gzip.compress(TEXT[:9]) + b"\0" * 7 + gzip.compress(TEXT[9:]) + b"\0" * 500,
    ),
    "trailing garbage": ("gzip", gzip.compress(TEXT) + b"garbage"),
    "trailing garbage that begins like a member": ("gzip", gzip.compress(TEXT) + b"\x1f"),
    "zlib's deflate": ("deflate", zlib.compress(TEXT)),
    "raw deflate": ("deflate", raw_deflate(TEXT)),
    "two codings": ("deflate, gzip", gzip.compress(zlib.compress(TEXT))),
    "two codings and none": ("gzip,identity , gzip,", gzip.compress(gzip.compress(TEXT))),
}
BAD: dict[str, tuple[str, bytes, str]] = {
    "garbage": ("gzip", b"garbage", BROKEN_CODING),
    "plain text under gzip": ("gzip", TEXT, BROKEN_CODING),
    "a gzip body that ends early": ("gzip", gzip.compress(TEXT)[:-9], BROKEN_CODING),
    "a second member that ends early": ("gzip", gzip.compress(TEXT) + gzip.compress(TEXT)[:-9], BROKEN_CODING),
    "a wrong checksum": ("gzip", gzip.compress(TEXT)[:-8] + bytes(8), BROKEN_CODING),
    "neither form of deflate": ("deflate", b"\xff\xff\xff\xff", BROKEN_CODING),
    "a deflate body that ends early": ("deflate", zlib.compress(TEXT)[:-9], BROKEN_CODING),
    "an unknown coding": ("aws-chunked", TEXT, UNKNOWN_CODING),
    "a bomb": ("gzip", gzip.compress(bytes(LIMIT + 1)), TOO_LARGE),
    "a bomb in members": ("gzip", gzip.compress(bytes(LIMIT // 2)) * 3, TOO_LARGE),
    "a bomb of bombs": ("gzip, gzip", gzip.compress(gzip.compress(bytes(9 * LIMIT))), TOO_LARGE),
    "a bomb in deflate": ("deflate", raw_deflate(bytes(LIMIT + 1)), TOO_LARGE),
    "more codings than anybody needs": (",".join(["gzip"] * 9), TEXT, UNKNOWN_CODING),
}


@pytest.mark.parametrize("case", GOOD)
def test_what_the_standard_allows_is_read(case: str) -> None:
    codings, body = GOOD[case]
    assert decoded(codings, body, LIMIT) == TEXT


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_undone_is_unread_with_its_reason(case: str) -> None:
    codings, body, reason = BAD[case]
    with pytest.raises(UnreadError) as caught:
        decoded(codings, body, LIMIT)
    assert caught.value.reason == reason


@pytest.mark.parametrize("case", GOOD)
def test_the_pieces_do_not_matter(case: str) -> None:
    codings, body = GOOD[case]
    for sizes in ([1] * len(body), *([random.Random(seed).randint(1, 40) for _ in body] for seed in range(20))):
        decoder, start, read = Decoder(codings, LIMIT), 0, b""
        for size in sizes:
            read += decoder.feed(body[start : start + size])
            start += size
        decoder.end()
        assert read == TEXT, sizes[:10]


def test_raw_deflate_that_looks_like_zlib_is_read() -> None:
    coded = stored(TEXT[:1], 0x78) + stored(TEXT[1:], 0x01)
    assert coded[:2] == zlib.compress(b"", 0)[:2], "the header of zlib's form"
    assert decoded("deflate", coded, LIMIT) == TEXT
    decoder = Decoder("deflate", LIMIT)
    assert b"".join(decoder.feed(coded[at : at + 1]) for at in range(len(coded))) == TEXT


def test_a_beginning_is_read_as_far_as_it_goes() -> None:
    for codings, body in (("gzip", gzip.compress(TEXT)), ("deflate", raw_deflate(TEXT)), ("", TEXT)):
        read, whole = beginning(codings, body[:-9], LIMIT, cut=True)
        assert len(read) > 20 and TEXT.startswith(read) and not whole
        assert beginning(codings, body, LIMIT) == (TEXT, True)
    long = random.Random(0).randbytes(4 * LIMIT).hex().encode()
    read, whole = beginning("gzip", gzip.compress(long, 1), LIMIT)
    assert len(read) > LIMIT // 2 and long.startswith(read) and not whole


def test_an_empty_body_is_empty_under_any_coding() -> None:
    for codings in ("gzip", "deflate", "", "gzip, deflate"):
        assert decoded(codings, b"", LIMIT) == b""


def test_random_bytes_never_break_out() -> None:
    for seed in range(300):
        draw = random.Random(seed)
        body = draw.randbytes(draw.randint(0, 200))
        if draw.random() < 0.5:
            body = gzip.compress(body)[: draw.randint(1, 60)] + body
        try:
            decoded(draw.choice(("gzip", "deflate", "gzip, deflate")), body, 1000)
        except UnreadError as error:
            assert error.reason in UNREAD, seed


@pytest.mark.parametrize(("coding", "package"), [("br", "brotli"), ("zstd", "zstandard")])
def test_without_its_package_a_coding_is_unread_and_the_package_named(
    coding: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_found", dict.fromkeys(("brotli", "brotlicffi", "compression.zstd", "zstandard")))
    with pytest.raises(UnreadError, match=package) as caught:
        decoded(coding, b"x", LIMIT)
    assert caught.value.reason == UNKNOWN_CODING


def packaged() -> dict[str, tuple[str, Callable[[bytes], bytes]]]:
    """The codings whose packages are here: the module by name, with what makes such bodies."""
    made: dict[str, tuple[str, Callable[[bytes], bytes]]] = {}
    for name in ("brotli", "brotlicffi", "zstandard", "compression.zstd"):
        try:
            module: Any = importlib.import_module(name)
        except ImportError:
            continue
        compress = module.ZstdCompressor().compress if name == "zstandard" else module.compress
        made[name] = ("br" if name.startswith("brotli") else "zstd", compress)
    return made


def test_codings_of_packages_are_undone_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By every package that is installed; the extra `codings`, which the tests want, brings one for each coding."""
    assert {coding for coding, _ in packaged().values()} == {"br", "zstd"}
    for name, (coding, compress) in packaged().items():
        others = dict.fromkeys({"brotli", "brotlicffi", "compression.zstd", "zstandard"} - {name})
        monkeypatch.setattr(decoding, "_found", others)
        assert decoded(coding, compress(TEXT), LIMIT) == TEXT, name
        assert decoded(f"gzip, {coding}", compress(gzip.compress(TEXT)), LIMIT) == TEXT, name
        if coding == "zstd":
            assert decoded(coding, compress(TEXT[:HALF]) + compress(TEXT[HALF:]), LIMIT) == TEXT, name
        for body, reason in ((compress(bytes(16 * LIMIT)), TOO_LARGE), (b"garbage", BROKEN_CODING)):
            with pytest.raises(UnreadError) as caught:
                decoded(coding, body, LIMIT)
            assert caught.value.reason == reason, name
        with pytest.raises(UnreadError):
            decoded(coding, compress(TEXT)[:-3], LIMIT)
        assert TEXT.startswith(beginning(coding, compress(TEXT)[:-3], LIMIT, cut=True)[0]), name
