"""What was given at run time, when its file is damaged: the last good copy, or the file, and never without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load import check_text
from gateway.config.stored import LAST_GOOD, NAME, Effective, Stored, effective, set_aside, sha256_of, write_stored

FILE = b"""
backends: {a: {endpoints: ["http://127.0.0.1:1"]}}
routes: [{name: r, match: {path_prefix: /}, stable: a}]
"""
GIVEN = FILE.replace(b":1", b":2").decode()
DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "emptied": lambda path: path.write_bytes(b""),
    "garbled": lambda path: path.write_bytes(b"\xff\x00"),
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "another shape": lambda path: path.write_bytes(b'{"text": 1}'),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "no configuration": lambda path: path.write_bytes(path.read_bytes().replace(b"stable", b"staple")),
}


def look(directory: Path) -> Effective:
    return effective(FILE, directory, lambda text: check_text(directory / "gateway.yaml", text))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    write_stored(tmp_path, Stored(sha256_of(FILE), GIVEN, "alice", "2026-11-30"))
    return tmp_path


def test_what_is_whole_is_served_without_a_word(kept: Path) -> None:
    found = look(kept)
    assert (found.text, found.trouble) == (GIVEN.encode(), "")
    write_stored(kept, None)
    assert look(kept) == Effective(FILE)


@pytest.mark.parametrize("harm", DAMAGES)
def test_a_damaged_one_is_replaced_by_its_copy_and_then_by_the_file(kept: Path, harm: str) -> None:
    DAMAGES[harm](kept / NAME)
    found = look(kept)
    assert found.text == GIVEN.encode()
    assert "the last good copy is served, which alice gave" in found.trouble and str(kept / NAME) in found.trouble
    DAMAGES[harm](kept / LAST_GOOD)
    found = look(kept)
    assert (found.text, found.stored) == (FILE, None)
    assert "what the configuration file says is served" in found.trouble


def test_a_copy_of_what_another_file_was_replaced_by_is_not_served(kept: Path) -> None:
    DAMAGES["cut"](kept / NAME)
    other = FILE.replace(b":1", b":3")
    found = effective(other, kept)
    assert (found.text, found.stored) == (other, None) and found.trouble
    assert set_aside(other, kept) == ""
