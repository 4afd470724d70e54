"""The bill of materials that the image carries, against CycloneDX's own schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.chart import DEPLOY, tool

VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(str(error) if error else 0)
"""


def error_in(bill: str) -> str:
    command: list[str | Path] = [tool("python"), "-c", VALIDATE]
    done = subprocess.run(command, input=bill, capture_output=True, text=True, timeout=120, check=False)
    return done.stderr


def test_the_bill_of_materials_is_valid(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DEPLOY / "sbom.py", tmp_path], check=True, timeout=120)
    text = (tmp_path / "sbom.cdx.json").read_text(encoding="utf-8")
    assert error_in(text) == ""
    wrong = json.loads(text)
    wrong["components"][0]["type"] = "thing"
    assert "thing" in error_in(json.dumps(wrong)), "the schema sees errors"
