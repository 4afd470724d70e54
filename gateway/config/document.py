"""YAML text to plain values, with the line of every one of them.

Only what a configuration needs: mappings with text keys, lists, text, numbers, booleans, null. Anchors and merge keys
(``<<``) work. These are errors, each at its place:

1. a key that is given twice (YAML has no meaning for it, and most readers keep the last one silently);
2. keys that are not text (``8080:`` is a number), and tags of any kind;
3. aliases that unfold into very much, or into themselves: values and depth are bounded.

What a plain scalar means is in `yaml_nodes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from gateway.config.errors import BadValue, Issue, TreePath, place_of
from gateway.config.yaml_nodes import (
    DEPTH_MAX,
    NODES_MAX,
    ListNode,
    MappingNode,
    Node,
    Place,
    ScalarNode,
    YamlSyntaxError,
    check_tag,
    children,
    compose,
    merges,
    scalar,
    too_much,
)

__all__ = ["Document", "Place", "YamlSyntaxError", "read_document", "read_tree"]


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


def read_document(text: str) -> Document:
    """The document of a YAML text. Raises YamlSyntaxError for text that has no usable tree at all."""
    root = compose(text)
    if root is None:
        raise YamlSyntaxError("the file is empty", "begin with the keys backends and routes")
    walk = _Walk()
    tree = walk.value(root, ())
    return Document(tree, walk.values, walk.keys, walk.issues, walk.broken)


def read_tree(text: str) -> Any:
    """The tree of a YAML text. Raises YamlSyntaxError, or BadValue with the first error in the tree."""
    document = read_document(text)
    for issue in document.issues:
        raise BadValue(f"{place_of(issue.path)}: {issue.problem}", issue.hint)
    return document.tree


class _Walk:
    """One pass over the nodes; aliases are unfolded, within the bounds."""

    def __init__(self) -> None:
        self.values: dict[TreePath, Place] = {}
        self.keys: dict[TreePath, Place] = {}
        self.issues: list[Issue] = []
        self.broken: set[TreePath] = set()
        self._nodes = 0

    def value(self, node: Node, path: TreePath) -> Any:
        """The plain value of a node at ``path``; None, and an issue, when it has none."""
        self._spend(node, len(path))
        # A block's own mark is its first child's line: its key says better where it is.
        if isinstance(node, ScalarNode) or path not in self.keys:
            self.values[path] = node.place
        try:
            if isinstance(node, MappingNode):
                check_tag(node, "map")
                return {key: self.value(child, (*path, key)) for key, child in self._children(node, path)}
            if isinstance(node, ListNode):
                check_tag(node, "seq")
                return [self.value(child, (*path, index)) for index, child in enumerate(node.items)]
            return scalar(node)
        except YamlSyntaxError:
            raise
        except BadValue as bad:
            self.issues.append(Issue(path, bad.problem, bad.hint))
            self.broken.add(path)
            return None

    def _spend(self, node: Node, depth: int) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX or depth > DEPTH_MAX:
            raise too_much(node.place)

    def _children(self, node: MappingNode, path: TreePath) -> list[tuple[str, Node]]:
        """The mapping's own entries, then those that are merged in and not overridden."""
        out: dict[str, Node] = {}
        for key_node, child in children(node):
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in out:
                problem = f"duplicate key: it is given again on line {key_node.place.line}"
                self.issues.append(Issue((*path, key), problem, "keep one of them", at_key=True))
                continue
            self.keys[*path, key] = key_node.place
            out[key] = child
        for key_node, child in self._merged(node, path, len(path)):
            key = self._key(key_node, path)
            if key is not None and key not in out:
                self.keys[*path, key] = key_node.place
                out[key] = child
        return list(out.items())

    def _merged(self, node: MappingNode, path: TreePath, depth: int) -> Iterator[tuple[Node, Node]]:
        self._spend(node, depth)
        for key_node, child in node.pairs:
            if not merges(key_node):
                continue
            sources = child.items if isinstance(child, ListNode) else [child]
            for source in sources:
                if not isinstance(source, MappingNode):
                    self.issues.append(Issue(path, "<< merges something that is not a mapping", "merge a mapping"))
                    continue
                yield from children(source)
                yield from self._merged(source, path, depth + 1)

    def _key(self, node: Node, path: TreePath) -> str | None:
        problem, hint = "the key is not text in YAML", "write it in quotes"
        try:
            key = scalar(node)
        except BadValue as bad:
            key, problem, hint = None, bad.problem, bad.hint
        if isinstance(key, str):
            return key
        text = node.text if isinstance(node, ScalarNode) else "?"
        self.keys.setdefault((*path, text), node.place)
        self.issues.append(Issue((*path, text), problem, hint, at_key=True))
        return None
