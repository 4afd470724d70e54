"""The lock files pin all that pyproject.toml asks for, with hashes, and say nothing of where to get it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("test", "codings", "otel", "load", "stats", "train", "s3")
# Each lock file, and the extras that are in it.
LOCKS = {"requirements.lock": (), "requirements-image.lock": ("otel",), "requirements-test.lock": EXTRAS}


def text(lock: str) -> str:
    return (ROOT / lock).read_text(encoding="utf-8")


def pins(lock: str) -> dict[str, tuple[Version, int]]:
    """Each pinned package of a lock file with its version and the number of its hashes."""
    joined = text(lock).replace("\\\n", " ")
    entries = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return dict(_pin(line) for line in entries)


def _pin(line: str) -> tuple[str, tuple[Version, int]]:
    match = re.fullmatch(r"([\w.-]+)==(\S+)((?: +--hash=sha256:[0-9a-f]{64})*)\s*", line.partition(" ;")[0])
    assert match, f"not a pin: {line[:80]}"
    return canonicalize_name(match[1]), (Version(match[2]), match[3].count("--hash"))


def wanted(lock: str) -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    asked = [line for extra in LOCKS[lock] for line in extras[extra]]
    return [Requirement(line) for line in PROJECT["dependencies"] + asked]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_dependency_is_pinned_to_a_version_that_is_allowed(lock: str) -> None:
    pinned = pins(lock)
    for requirement in wanted(lock):
        version, _ = pinned[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement} is pinned to {version}: run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes(lock: str) -> None:
    assert [name for name, (_, hashes) in pins(lock).items() if hashes == 0] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_place_is_named(lock: str) -> None:
    assert "://" not in text(lock)
    assert not re.search(r"^\s*-(-index|-extra|-find|-trusted|i\b|f\b)", text(lock), re.MULTILINE)
    assert " @ " not in text(lock)


def test_tests_run_on_the_versions_that_are_shipped() -> None:
    tested = pins("requirements-test.lock")
    for lock in LOCKS:
        shipped = pins(lock)
        assert {name: tested.get(name) for name in shipped} == shipped


def test_every_extra_is_locked() -> None:
    assert set(PROJECT["optional-dependencies"]) == set(EXTRAS)
