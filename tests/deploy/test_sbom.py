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


def test_with_the_system_it_has_all_that_an_image_is_made_of(tmp_path: Path) -> None:
    """This machine stands for the image: Debian, Python, and the same packages."""
    subprocess.run([sys.executable, DEPLOY / "sbom.py", "--system", tmp_path], check=True, timeout=120)
    text = (tmp_path / "sbom.cdx.json").read_text(encoding="utf-8")
    assert error_in(text) == ""
    components = {each["name"]: each for each in json.loads(text)["components"]}
    installed = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}${Package}\n"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names = {line.removeprefix("ii ") for line in installed.stdout.splitlines() if line.startswith("ii ")}
    assert names - components.keys() == set()
    assert components["libc6"]["purl"].startswith("pkg:deb/debian/libc6@")
    assert any("licenses" in components[name] for name in names), "those whose copyright file can be read by a machine"
    assert components["python"]["licenses"] == [{"license": {"id": "Python-2.0"}}]
    assert {"numpy", "uvloop"} <= components.keys()
    licences = (tmp_path / "licences.txt").read_text(encoding="utf-8")
    assert "/usr/share/common-licenses/GPL-2\n" in licences
    assert "\nlibc6 " in licences and f"\nPython {sys.version.split()[0]}: Python-2.0" in licences
