"""YAML text to plain values, with the line of every one of them.

Only what a configuration needs: mappings with text keys, lists, text, numbers, booleans, null; anchors and merge keys
(``<<``) work. YAML 1.1 has traps, and what is almost certainly one is an error instead of a surprise:

1. a key that is given twice (YAML keeps the last one silently);
2. keys that are not text (``on:`` is a boolean, ``8080:`` a number), dates, and tags of any kind;
3. ``010`` (eight) and ``1:30`` (ninety): the first is an error, the second stays text;
4. aliases that unfold into very much, or into themselves: nodes and depth are bounded.

After YAML 1.1 (https://yaml.org/spec/1.1/), sections 3.2.1.3 (equality of keys) and 10.1 (tags).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from gateway.config.errors import BadValue, Issue, TreePath, show

NODES_MAX = 50_000
DEPTH_MAX = 40
_INT_BITS_MAX = 63
_CORE = "tag:yaml.org,2002:"
_MERGE = _CORE + "merge"
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_CONSTRUCT = yaml.constructor.SafeConstructor()


class Place(NamedTuple):
    """A position in the text, both 1-based."""

    line: int
    column: int


class Document(NamedTuple):
    """The tree of a YAML text, where each path stands in it, and what was wrong with it already.

    ``broken`` holds the paths whose value is unknown (None stands in for it): nothing more is to be said about those.
    """

    tree: Any
    values: dict[TreePath, Place]
    keys: dict[TreePath, Place]
    issues: list[Issue]
    broken: set[TreePath]

    def place(self, path: TreePath, at_key: bool = False) -> Place | None:
        """Where ``path`` stands; where its nearest ancestor stands when it is not in the text."""
        first, second = (self.keys, self.values) if at_key else (self.values, self.keys)
        for length in range(len(path), -1, -1):
            found = first.get(path[:length]) or second.get(path[:length])
            if found:
                return found
        return None


class YamlSyntaxError(BadValue):
    """Text that is not YAML, or YAML that is unreasonable, with its place when that is known."""

    def __init__(self, problem: str, hint: str, place: Place | None = None) -> None:
        super().__init__(problem, hint)
        self.place = place


def read_document(text: str) -> Document:
    """The document of a YAML text. Raises YamlSyntaxError for text that has no usable tree at all."""
    root = _compose(text)
    if root is None:
        raise YamlSyntaxError("the file is empty", "begin with the keys backends and routes")
    walk = _Walk()
    tree = walk.value(root, ())
    return Document(tree, walk.values, walk.keys, walk.issues, walk.broken)


class _BoundedLoader(yaml.SafeLoader):
    """Composes nodes, not too many and not too deep: a file of brackets must not take seconds, nor the stack."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        self._depth += 1
        if self._nodes > NODES_MAX or self._depth > DEPTH_MAX:
            raise _too_much(Place(self.line + 1, self.column + 1))
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _compose(text: str) -> yaml.Node | None:
    loader = _BoundedLoader("")
    try:
        loader = _BoundedLoader(text)
        return loader.get_single_node()
    except YamlSyntaxError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        place = Place(mark.line + 1, mark.column + 1) if mark else None
        raise YamlSyntaxError(f"not valid YAML: {words}", "mend this line or the one above", place) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise YamlSyntaxError(
            f"the character U+{ord(text[error.position]):04X} is not allowed in YAML", "remove it", place
        ) from None
    except (ValueError, OverflowError):
        # An escape such as "\U7FFFFFFF" that names no character: the scanner lets Python's own error through.
        place = Place(loader.line + 1, loader.column + 1)
        raise YamlSyntaxError("an escape that names no character", "write the character itself", place) from None
    finally:
        loader.dispose()


def _too_much(place: Place) -> YamlSyntaxError:
    return YamlSyntaxError(
        f"the file holds more than {NODES_MAX} values or {DEPTH_MAX} levels, aliases unfolded", "make it smaller", place
    )


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


class _Walk:
    """One pass over the composed nodes; aliases are unfolded, within the bounds."""

    def __init__(self) -> None:
        self.values: dict[TreePath, Place] = {}
        self.keys: dict[TreePath, Place] = {}
        self.issues: list[Issue] = []
        self.broken: set[TreePath] = set()
        self._nodes = 0

    def value(self, node: yaml.Node, path: TreePath) -> Any:
        """The plain value of a node at ``path``; None, and an issue, when it has none."""
        self._spend(node, len(path))
        # A block's own mark is its first child's line: its key says better where it is.
        if not (isinstance(node, yaml.CollectionNode) and path in self.keys):
            self.values[path] = _place(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _CORE + "map":
                return {key: self.value(child, (*path, key)) for key, child in self._children(node, path)}
            if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
                return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
            return _scalar(node)
        except YamlSyntaxError:
            raise
        except BadValue as bad:
            self.issues.append(Issue(path, bad.problem, bad.hint))
            self.broken.add(path)
            return None

    def _spend(self, node: yaml.Node, depth: int) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX or depth > DEPTH_MAX:
            raise _too_much(_place(node))

    def _children(self, node: yaml.MappingNode, path: TreePath) -> list[tuple[str, yaml.Node]]:
        """The mapping's own entries, then those that are merged in and not overridden."""
        out: dict[str, yaml.Node] = {}
        for key_node, child in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in out:
                problem = f"the key is given again on line {_place(key_node).line}"
                self.issues.append(Issue((*path, key), problem, "keep one of them", at_key=True))
                continue
            self.keys[*path, key] = _place(key_node)
            out[key] = child
        for key_node, child in self._merged(node, path, len(path)):
            key = self._key(key_node, path)
            if key is not None and key not in out:
                self.keys[*path, key] = _place(key_node)
                out[key] = child
        return list(out.items())

    def _merged(self, node: yaml.MappingNode, path: TreePath, depth: int) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        self._spend(node, depth)
        for key_node, child in node.value:
            if key_node.tag != _MERGE:
                continue
            sources = child.value if isinstance(child, yaml.SequenceNode) else [child]
            for source in sources:
                if not isinstance(source, yaml.MappingNode):
                    self.issues.append(Issue(path, "<< merges what is not a mapping", "merge an alias of a mapping"))
                    continue
                yield from (entry for entry in source.value if entry[0].tag != _MERGE)
                yield from self._merged(source, path, depth + 1)

    def _key(self, node: yaml.Node, path: TreePath) -> str | None:
        problem, hint = "the key is not text in YAML", "write it in quotes"
        try:
            key = _scalar(node)
        except BadValue as bad:
            key, problem, hint = None, bad.problem, bad.hint
        if isinstance(key, str):
            return key
        text = str(node.value) if isinstance(node, yaml.ScalarNode) else "?"
        self.keys.setdefault((*path, text), _place(node))
        self.issues.append(Issue((*path, text), problem, hint, at_key=True))
        return None


def _scalar(node: yaml.Node) -> str | int | float | bool | None:
    """The value of a scalar node; BadValue for what a configuration has no use for."""
    text = node.value
    if not isinstance(node, yaml.ScalarNode):
        raise BadValue(f"the tag {show(node.tag)} is not used here", "remove the tag")
    kind = node.tag.removeprefix(_CORE)
    if kind == "str" or (kind in ("int", "float") and ":" in text):
        return _text(text)
    try:
        match kind:
            case "null":
                return None
            case "bool":
                return bool(_CONSTRUCT.construct_yaml_bool(node))
            case "int":
                return _whole(text, int(_CONSTRUCT.construct_yaml_int(node)))
            case "float":
                return float(_CONSTRUCT.construct_yaml_float(node))
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        if isinstance(error, BadValue):
            raise
        raise BadValue(f"{show(text)} cannot be read as {kind}", "write a plain value") from None
    what = "a date" if kind == "timestamp" else f"of the kind {show(kind)}"
    raise BadValue(f"{show(text)} is {what} in YAML, which is not used here", "write it in quotes")


def _whole(text: str, number: int) -> int:
    if _LEADING_ZERO.fullmatch(text):
        raise BadValue(f"{text[:20]} begins with 0, which YAML reads as octal", "remove the leading 0")
    if number.bit_length() > _INT_BITS_MAX:
        raise BadValue("the number is far too large", "give a smaller one")
    return number


def _text(text: str) -> str:
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise BadValue("the text holds half of a surrogate pair", "write the character itself")
    return text
