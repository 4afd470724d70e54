"""YAML text to nodes with positions, and YAML 1.2's meaning of plain scalars.

Rules:

1. Scalars mean what the core schema of YAML 1.2 says: `true` and `false` alone are booleans, so `off`, `yes` and `on`
   are text, and so are `1:30` and `2026-12-24`; `0o17` is octal; `1e-3` is a number.
2. A number with a leading zero is text, beyond that schema: `08` and `010` mean one thing to one reader and another to
   the next. Where a number is wanted, the error says how to write it.
3. Nodes and depth are bounded while the text is read. Nothing here recurses: a file of brackets takes no stack.
4. libyaml reads the text, where PyYAML has it; PyYAML's own parser gives the same events, five times as slowly. Of
   either only the events are used: PyYAML's tags (YAML 1.1) and its composer, which recurses, are not.

After YAML 1.2.2 (https://yaml.org/spec/1.2.2/), sections 10.3.2 (core schema) and 6.9.2 (anchors).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from gateway.config.errors import BadValue, show

NODES_MAX = 50_000
DEPTH_MAX = 40
_INT_BITS_MAX = 63
_TAG = "tag:yaml.org,2002:"
_PARSERS: tuple[Any, ...] = (getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.SafeLoader)
# YAML 1.2.2, section 5.1: what a text may hold as it stands.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {word: word[0] in "tT" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class Place(NamedTuple):
    """A position in the text, both 1-based."""

    line: int
    column: int


class YamlSyntaxError(BadValue):
    """Text that is not YAML, or YAML that is unreasonable, with its place when that is known."""

    def __init__(self, problem: str, hint: str, place: Place | None = None) -> None:
        super().__init__(problem, hint)
        self.place = place


class ScalarNode(NamedTuple):
    """A scalar as it is written; ``plain``: without quotes."""

    text: str
    plain: bool
    tag: str | None
    place: Place


class ListNode(NamedTuple):
    """A sequence of nodes; an alias stands for its node itself, so that a list may hold itself."""

    items: list[Node]
    tag: str | None
    place: Place


class MappingNode(NamedTuple):
    """A mapping: its keys and values as pairs, in the order of the text."""

    pairs: list[tuple[Node, Node]]
    tag: str | None
    place: Place


Node = ScalarNode | ListNode | MappingNode


def compose(text: str, *, native: bool = True) -> Node | None:
    """The root node of the one document in the text, None when there is none. Raises YamlSyntaxError.

    ``native``: by libyaml, where it is to be had.
    """
    if found := _UNPRINTABLE.search(text):
        before = text[: found.start()]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise YamlSyntaxError(f"the character U+{ord(found[0]):04X} is not allowed in YAML", "remove it", place)
    composer = _Composer()
    try:
        for event in yaml.parse(text, Loader=_PARSERS[not native]):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        at = Place(mark.line + 1, mark.column + 1) if mark else None
        raise YamlSyntaxError(f"invalid YAML: {words}", "fix this line or the one above it", at) from None
    except (ValueError, OverflowError, yaml.YAMLError) as error:
        if isinstance(error, YamlSyntaxError):
            raise
        # An escape such as "\U7FFFFFFF" that names no character: PyYAML's scanner lets Python's own error through.
        raise YamlSyntaxError("invalid YAML: an escape names no character", "write the character itself") from None
    return composer.root


class _Composer:
    """Puts events together to nodes."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[ListNode | MappingNode] = []
        # Of each open mapping the key that waits for its value.
        self._keys: list[Node | None] = []
        self._anchors: dict[str, Node] = {}
        self._nodes = 0

    def take(self, event: Any) -> None:
        """The next event."""
        if isinstance(event, yaml.ScalarEvent):
            self._put(ScalarNode(event.value, bool(event.implicit[0]), event.tag, _place(event)), event.anchor)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            kind = MappingNode if isinstance(event, yaml.MappingStartEvent) else ListNode
            node = kind([], event.tag, _place(event))
            self._put(node, event.anchor)
            self._open.append(node)
            self._keys.append(None)
            if len(self._open) > DEPTH_MAX:
                raise too_much(node.place)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._open.pop()
            self._keys.pop()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise YamlSyntaxError(
                    f"the alias *{event.anchor} has no anchor", f"add &{event.anchor} before it", _place(event)
                )
            self._put(self._anchors[event.anchor], None)
        elif isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise YamlSyntaxError("a second document begins here", "keep one document, without ---", _place(event))

    def _put(self, node: Node, anchor: str | None) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise too_much(node.place)
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._open:
            self.root = node
            return
        parent, key = self._open[-1], self._keys[-1]
        if isinstance(parent, ListNode):
            parent.items.append(node)
        elif key is None:
            self._keys[-1] = node
        else:
            parent.pairs.append((key, node))
            self._keys[-1] = None


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def too_much(place: Place) -> YamlSyntaxError:
    """The refusal of a text that is too large or too deep."""
    return YamlSyntaxError(
        f"the file holds more than {NODES_MAX} values or {DEPTH_MAX} levels, aliases unfolded", "make it smaller", place
    )


def merges(key: Node) -> bool:
    """Whether a key is ``<<``, which merges its value into the mapping."""
    return isinstance(key, ScalarNode) and key.plain and key.text == "<<"


def children(node: MappingNode) -> Iterator[tuple[Node, Node]]:
    """The pairs of a mapping without those that merge."""
    return (pair for pair in node.pairs if not merges(pair[0]))


def check_tag(node: Node, kind: str) -> None:
    """Raise BadValue for a tag that says more than ``kind`` (``map``, ``seq``, ``str``)."""
    if node.tag is not None and node.tag not in ("!", _TAG + kind):
        raise BadValue(f"the tag {show(node.tag.replace(_TAG, '!!'))} is not supported", "remove the tag")


def scalar(node: Node) -> str | int | float | bool | None:
    """The value of a scalar node (rules 1 and 2). Raises BadValue."""
    if not isinstance(node, ScalarNode):
        raise BadValue("a list or mapping cannot be a key", "use text as the key")
    check_tag(node, "str")
    return plain_scalar(node.text) if node.plain and node.tag is None else _text(node.text)


def plain_scalar(text: str) -> str | int | float | bool | None:
    """What a scalar without quotes means. Raises BadValue for a number that is too large."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    for pattern, base in ((_INTEGER, 10), (_OCTAL, 8), (_HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            return _integer(text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _NOT_FINITE.fullmatch(text) else _text(text)


def _integer(text: str, base: int) -> int:
    number = int(text, base) if len(text) <= _INT_BITS_MAX + 3 else 1 << _INT_BITS_MAX
    if number.bit_length() > _INT_BITS_MAX:
        raise BadValue("the number is far too large", "use a smaller one")
    return number


def _text(text: str) -> str:
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise BadValue("the text holds half of a surrogate pair", "write the character itself")
    return text
