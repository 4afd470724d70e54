"""Elements of HTML and SVG as values: text is escaped where it enters, so that no name can become markup."""

from __future__ import annotations

from html import escape

_EMPTY = frozenset({"meta", "br", "rect", "line", "path", "circle", "polyline", "polygon"})


class Markup(str):
    """Text that is markup already: what `element` has made."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element; children that are no markup are text. ``class_`` is written class, ``view_box`` viewBox.

    >>> element("td", "<b>", class_="num")
    '<td class="num">&lt;b&gt;</td>'
    """
    written = "".join(
        f' {_attribute(key)}="{escape(_number(value))}"' for key, value in attributes.items() if value is not None
    )
    if name in _EMPTY and not children:
        return Markup(f"<{name}{written}>" if name in ("meta", "br") else f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{''.join(map(_inner, children))}</{name}>")


def joined(*parts: str) -> Markup:
    """Several parts after one another."""
    return Markup("".join(map(_inner, parts)))


def clipped(text: str, most: int) -> str:
    """The text without control characters, cut where it is too long."""
    clean = "".join(char if char.isprintable() else " " for char in text)
    return clean if len(clean) <= most else f"{clean[: most - 1]}…"


def _inner(child: str) -> str:
    return child if isinstance(child, Markup) else escape(child)


def _attribute(key: str) -> str:
    if key == "view_box":
        return "viewBox"
    return key.rstrip("_").replace("_", "-")


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
