"""docs/configuration.md and the schema say the same: every key, its type, its default."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.config import GatewayConfig
from gateway.config.shape import describe, keys

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def test_every_key_is_documented_with_its_type_and_default() -> None:
    rows = ROW.findall((ROOT / "docs/configuration.md").read_text(encoding="utf-8"))
    documented = {key: (kind, default.strip("`")) for key, kind, default, _ in rows}
    assert len(documented) == len(rows), "a key is documented twice"
    assert documented == {key: (describe(shape), default) for key, shape, default in keys(GatewayConfig)}
    assert all(len(meaning) > 10 for *_, meaning in rows)


def test_the_complete_example_names_every_key() -> None:
    text = (ROOT / "config/gateway.yaml").read_text(encoding="utf-8")
    absent = [key for key, _, _ in keys(GatewayConfig) if not re.search(rf"\b{re.split(r'[.]', key)[-1]}\b", text)]
    assert absent == []
