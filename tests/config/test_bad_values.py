"""Every key of the schema has a value that it refuses, with the very words: bad_values.txt, and issues.txt besides.

A block of bad_values.txt is a place and a value, put into whole.yaml; below it the errors that it must give: those of
the place itself bare, those of another with that place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.errors import ConfigError
from gateway.config.load import load
from gateway.config.schema import GatewayConfig
from gateway.config.shape import keys

HERE = Path(__file__).parent
WHOLE = (HERE / "whole.yaml").read_text(encoding="utf-8")
TOKEN = "a-token-of-sixteen-or-more"


def blocks() -> dict[str, dict[str, tuple[Any, list[str]]]]:
    """By top-level key: the places, the value and the lines that it must earn."""
    found: dict[str, dict[str, tuple[Any, list[str]]]] = {}
    for block in (HERE / "bad_values.txt").read_text(encoding="utf-8").rstrip("\n").split("\n\n"):
        first, *lines = block.split("\n")
        place, _, value = first.partition(": ")
        rows = found.setdefault(re.split(r"[.\[]", place)[0], {})
        assert place not in rows, f"{place} is given twice"
        rows[place] = yaml.safe_load(value), [line.strip() for line in lines]
    return found


BLOCKS = blocks()


def put(tree: Any, place: str, value: Any) -> None:
    *parents, last = [int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", place)]
    for part in parents:
        tree = tree[part]
    tree[last] = value


def refused(directory: Path, tree: Any) -> list[tuple[str, str]]:
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    return [(issue.place, f"{issue.problem}; {issue.hint}") for issue in caught.value.issues]


@pytest.mark.parametrize("section", BLOCKS)
def test_a_bad_value_is_refused_in_the_words_of_the_table(tmp_path: Path, section: str) -> None:
    (tmp_path / "token").write_text(TOKEN)
    for place, (value, lines) in BLOCKS[section].items():
        tree = yaml.safe_load(WHOLE)
        put(tree, place, value)
        reported = [text if where == place else f"{where}: {text}" for where, text in refused(tmp_path, tree)]
        assert reported == lines, place


def test_the_whole_is_good_and_every_key_has_a_value_that_it_refuses(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "gateway.yaml").write_text(WHOLE)
    load(tmp_path / "gateway.yaml", environ={})
    tried = {re.sub(r"\[\d+\]", "[]", place) for rows in BLOCKS.values() for place in rows}
    known = {re.sub(r"<name>", "a", key) for key, _, _ in keys(GatewayConfig)}
    assert known - tried == set(), "keys without a row in bad_values.txt"
    assert tried - known == set(), "rows about keys that are gone"
