"""What was given at run time: it holds for the file that it replaced, and what cannot be used is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.config.load import check_text
from gateway.config.stored import (
    SUPERSEDED,
    Effective,
    Stored,
    effective,
    from_copy,
    sha256_of,
    write_superseded,
)

FILE = b"""
backends: {a: {endpoints: ["http://127.0.0.1:1"]}}
routes: [{name: r, match: {path_prefix: /}, stable: a}]
"""
OTHER = FILE.replace(b":1", b":3")
GIVEN = Stored(sha256_of(FILE), FILE.replace(b":1", b":2").decode(), "alice", "2026-11-30")
UNUSABLE = replace(GIVEN, text=GIVEN.text.replace("stable", "staple"))


def validate(text: bytes) -> None:
    check_text(Path("gateway.yaml"), text)


def test_it_is_served_for_the_file_that_it_replaced_and_for_no_other() -> None:
    assert effective(FILE, GIVEN, validate) == Effective(GIVEN.text.encode(), GIVEN)
    assert effective(OTHER, GIVEN, validate) == Effective(OTHER)
    assert effective(FILE, None, validate) == Effective(FILE)


def test_what_is_no_configuration_any_more_gives_way_to_the_file_and_says_so() -> None:
    found = effective(FILE, UNUSABLE, validate)
    assert (found.text, found.stored) == (FILE, None)
    assert "the configuration that alice gave at 2026-11-30 cannot be used" in found.trouble
    assert "routes[0]" in found.trouble and "the configuration file is served" in found.trouble


@pytest.mark.parametrize("copy", [None, UNUSABLE, replace(GIVEN, replaces_sha256=sha256_of(OTHER))])
def test_where_it_cannot_be_read_the_file_is_served_when_no_copy_can_be(copy: Stored | None) -> None:
    found = from_copy(FILE, "it is damaged", copy, validate)
    assert (found.text, found.stored) == (FILE, None)
    assert "it is damaged: the configuration file is served; give the configuration again" in found.trouble


def test_where_it_cannot_be_read_the_copy_is_served() -> None:
    found = from_copy(FILE, "it is damaged", GIVEN, validate)
    assert (found.text, found.stored) == (GIVEN.text.encode(), GIVEN)
    assert "the copy of the configuration that alice gave at 2026-11-30 is served" in found.trouble


def test_what_the_file_has_overtaken_is_put_away_for_people(tmp_path: Path) -> None:
    assert write_superseded(tmp_path, GIVEN, GIVEN.text.encode()) == "", "the file says the same"
    said = write_superseded(tmp_path, GIVEN, OTHER)
    path = tmp_path / SUPERSEDED
    assert str(path) in said and "that alice gave" in said
    assert (path.read_text(), path.stat().st_mode & 0o777) == (GIVEN.text, 0o600)
