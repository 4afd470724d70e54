"""What GTO's tags say: `digits@v1.2.0` registers a version, `digits#canary#3` assigns a stage.

The number at the end grows with each assignment or deprecation of the model; `!` before it takes back. A folder in
front of the name has `=` in tags where people write `:`.

Source: GTO 1.10, gto/constants.py (`tag_re`) and gto/tag.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from gateway.integrations.dvc.clone import Tag

_TAG = re.compile(
    r"(?P<artifact>[A-Za-z0-9_./=-]+)"
    r"(?:#(?P<stage>[A-Za-z0-9][A-Za-z0-9/_-]*)|@(?P<version>v\d+\.\d+\.\d+[0-9A-Za-z.+-]*))"
    r"(?P<cancel>!?)(?:#(?P<counter>\d{1,9}))?"
)


class Assignment(NamedTuple):
    """A stage was assigned to a commit: by which tag, and as which of the model's numbered tags."""

    tag: Tag
    counter: int


def assignment(tags: Iterable[Tag], model: str, stage: str) -> Assignment | None:
    """The newest assignment of the stage; None where there is none, or where it was taken back."""
    newest: tuple[int, bool, Tag] | None = None
    for tag in tags:
        parsed = _TAG.fullmatch(tag.name)
        if parsed is not None and parsed["artifact"] == _in_tag(model) and parsed["stage"] == stage:
            one = int(parsed["counter"] or 0), parsed["cancel"] == "!", tag
            if newest is None or one[:2] > newest[:2]:
                newest = one
    return None if newest is None or newest[1] else Assignment(newest[2], newest[0])


def version_at(tags: Iterable[Tag], model: str, commit: str) -> str | None:
    """The version that is registered for the commit: the last one, where there are several."""
    return max(_registered(tags, model, commit), key=_ordered, default=None)


def was_removed(tags: Iterable[Tag], model: str, version: str, commit: str) -> bool:
    """Whether a version that was registered for the commit is so no more; ``commit`` may be its beginning.

    What is named by its commit or content, as nothing was registered, cannot be removed.
    """
    named_by_tag = _TAG.fullmatch(f"m@{version}") is not None
    return named_by_tag and version not in _registered(tags, model, commit)


def _registered(tags: Iterable[Tag], model: str, commit: str) -> set[str]:
    registered, cancelled = set(), set()
    for tag in tags:
        parsed = _TAG.fullmatch(tag.name)
        if parsed is None or parsed["artifact"] != _in_tag(model) or parsed["version"] is None:
            continue
        if parsed["cancel"]:
            cancelled.add(parsed["version"])
        elif tag.commit.startswith(commit):
            registered.add(parsed["version"])
    return registered - cancelled


def _in_tag(model: str) -> str:
    return model.replace(":", "=")


def _ordered(version: str) -> tuple[tuple[int, ...], bool, str]:
    """Semantic versions in their order, near enough: a pre-release comes before its release."""
    numbers, _, rest = version[1:].partition("-")
    return tuple(int(part) for part in numbers.partition("+")[0].split(".")), not rest, rest
