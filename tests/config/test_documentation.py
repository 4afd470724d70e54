"""docs/configuration.md and the schema say the same: every key, its type, its default."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.config.reference import filled
from gateway.config.schema import GatewayConfig
from gateway.config.shape import documentation, keys

ROOT = Path(__file__).parents[2]


def test_the_tables_are_what_the_declarations_say() -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert filled(text) == text, "run: python -m gateway.config.reference docs/configuration.md"


def test_every_key_is_in_a_table_or_like_one_that_is() -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    alike = re.findall(r"^\| `([^`]+)` \| a section with the keys of `", text, re.MULTILINE)
    absent = {key for key, _, _ in keys(GatewayConfig)} - shown
    assert {key for key in absent if not any(key.startswith(f"{one}.") for one in alike)} == set()


def test_every_key_says_what_it_means() -> None:
    assert [key for key, shape, _ in keys(GatewayConfig) if len(documentation(shape)) <= 10] == []


def test_the_complete_example_names_every_key() -> None:
    text = (ROOT / "config/gateway.yaml").read_text(encoding="utf-8")
    absent = [key for key, _, _ in keys(GatewayConfig) if not re.search(rf"\b{re.split(r'[.]', key)[-1]}\b", text)]
    assert absent == []
