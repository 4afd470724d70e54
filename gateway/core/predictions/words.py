"""Parts of hostile text in sentences: short, printable, on one line."""

from __future__ import annotations


def excerpt(text: str, chars_max: int) -> str:
    r"""The beginning of a text; what cannot be printed is escaped.

    >>> excerpt("a\nb\x1b[31m", 60), excerpt("x" * 100, 5)
    ('a\\nb\\x1b[31m', 'xxxxx...')
    """
    cut = text[:chars_max]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in cut)
    return shown[: 2 * chars_max] + ("..." if len(text) > chars_max else "")


def excerpt_of_bytes(body: bytes, chars_max: int) -> str:
    r"""The same of bytes that may be no text.

    >>> excerpt_of_bytes(b'{"predictions": [1]}', 60), excerpt_of_bytes(b"\xff\x00", 60), excerpt_of_bytes(b"", 60)
    ('{"predictions": [1]}', '\\xff\\x00', 'an empty body')
    """
    if not body:
        return "an empty body"
    return excerpt(body[: 4 * chars_max].decode("utf-8", "backslashreplace"), chars_max)
