"""The versions that routes serve outlive a change of the file that does not speak of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from gateway.config.keeping import roles_of, with_versions_kept
from gateway.config.load import reload
from gateway.config.plain import plain
from gateway.config.stored import Stored, carried_over, sha256_of
from gateway.config.yaml_text import to_yaml

FILE: dict[str, Any] = {
    "backends": {"a": {"endpoints": ["http://127.0.0.1:1"]}, "other": {"endpoints": ["http://127.0.0.1:9"]}},
    "routes": [{"name": "r", "match": {"path_prefix": "/"}, "stable": "a"}],
}
SEVENTH = {"endpoints": ["http://127.0.0.1:7"], "model": {"name": "m", "version": "7"}}


def in_force(**role: str) -> dict[str, Any]:
    """The configuration after version 7 was brought to the route."""
    tree = copy.deepcopy(FILE)
    tree["backends"]["r-7"] = SEVENTH
    tree["routes"][0] |= role
    return tree


def edited(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(FILE) | changes


@pytest.mark.parametrize("role", [{"canary": "r-7"}, {"stable": "r-7"}, {"stable": "r-7", "canary": "a"}])
def test_a_version_stays_where_the_file_changes_something_else(role: dict[str, str]) -> None:
    new = edited(limits={"keepalive_s": 9})
    new["routes"][0]["plan"] = {"deadline_s": 60}
    kept = with_versions_kept(roles_of(FILE), in_force(**role), new)
    assert kept["routes"] == [new["routes"][0] | role]
    assert kept["backends"] == FILE["backends"] | {"r-7": SEVENTH} and kept["limits"] == {"keepalive_s": 9}


def test_the_file_wins_where_it_names_another_backend() -> None:
    new = edited(routes=[FILE["routes"][0] | {"stable": "other"}])
    assert with_versions_kept(roles_of(FILE), in_force(canary="r-7"), new) == new


def test_the_file_wins_where_it_changes_that_backend() -> None:
    new = edited()
    new["backends"]["r-7"] = {"endpoints": ["http://127.0.0.1:70"]}
    kept = with_versions_kept(roles_of(FILE), in_force(canary="r-7"), new)
    assert kept["backends"] == new["backends"] and kept["routes"][0]["canary"] == "r-7"


def test_the_file_wins_where_it_removes_a_backend_that_is_needed() -> None:
    new = edited(backends={"other": FILE["backends"]["other"]}, routes=[FILE["routes"][0] | {"stable": "a"}])
    assert with_versions_kept(roles_of(FILE), in_force(stable="a", canary="r-7"), new) == new


def test_what_only_the_api_had_and_no_route_of_the_file_needs_goes() -> None:
    current = in_force()
    current["routes"].append({"name": "late", "match": {"path_prefix": "/late"}, "stable": "r-7"})
    new = edited(limits={"keepalive_s": 9})
    assert with_versions_kept(roles_of(FILE), current, new) == new


def test_it_goes_on_over_any_number_of_changed_files() -> None:
    def tree_of(text: bytes) -> Any:
        return plain(reload(Path("gateway.yaml"), text))

    def text_of(tree: Any) -> bytes:
        return to_yaml(tree).encode()

    stored = Stored(sha256_of(text_of(FILE)), to_yaml(in_force(canary="r-7")), "ada", "2026", roles_of(FILE))
    for keepalive_s in (5, 6):
        text = text_of(edited(limits={"keepalive_s": keepalive_s}))
        found = carried_over(stored, text, tree_of)
        assert found is not None and (found.by, found.replaces_sha256) == ("ada", sha256_of(text))
        stored = found
        assert tree_of(found.text.encode())["routes"][0]["canary"] == "r-7"
    assert carried_over(stored, text_of(FILE | {"routes": [FILE["routes"][0] | {"stable": "other"}]}), tree_of) is None
    older = Stored(stored.replaces_sha256, stored.text, "ada", "2026")
    assert carried_over(older, text_of(FILE), tree_of) is None, "state of before says nothing of the file"
