"""What this Python environment is made of: a bill of materials (CycloneDX 1.6), and all licences in one file.

    ENVIRONMENT/bin/python deploy/sbom.py DIRECTORY     writes sbom.cdx.json and licences.txt there

The image's build runs it over what the image contains. It needs nothing but the standard library, and gives the same
files for the same packages. The packages of the base image's system are not in it; the base image has its own list.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

SUBJECT = "canary-gateway"
_LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice|authors|copyright)", re.IGNORECASE)


def packages() -> list[Distribution]:
    """Every installed package, by name."""
    found = {canonical(each.metadata["Name"]): each for each in distributions()}
    return [found[name] for name in sorted(found)]


def canonical(name: str) -> str:
    """The name as package URLs have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licences(package: Distribution) -> list[dict[str, Any]]:
    """What the package says of its licence: an SPDX expression, its classifiers, or a line of text."""
    metadata = package.metadata
    if "License-Expression" in metadata:
        return [{"expression": metadata["License-Expression"]}]
    classifiers = metadata.get_all("Classifier") or []
    names = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License ::")]
    names = [name for name in names if name != "OSI Approved"]
    text = metadata["License"].strip() if "License" in metadata else ""
    if not names and text:
        names = [text.partition("\n")[0].strip()]
    return [{"license": {"name": name}} for name in dict.fromkeys(names)]


def component(package: Distribution) -> dict[str, Any]:
    """One package as a component."""
    name, version = canonical(package.metadata["Name"]), package.version
    url = f"pkg:pypi/{name}@{version}"
    found: dict[str, Any] = {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}
    if stated := licences(package):
        found["licenses"] = stated
    return found


def bill() -> dict[str, Any]:
    """The bill of materials."""
    every = [component(each) for each in packages()]
    subject = [each | {"type": "application"} for each in every if each["name"] == SUBJECT]
    metadata = {"metadata": {"component": subject[0]}} if subject else {}
    rest = [each for each in every if each["name"] != SUBJECT]
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, **metadata, "components": rest}


def licence_texts(package: Distribution) -> Iterator[tuple[str, str]]:
    """The name and the text of each file of the package that states a licence."""
    for file in sorted(package.files or (), key=str):
        inside = ".dist-info/" in str(file)
        if inside and _LICENCE_FILE.search(file.name) and (path := Path(str(file.locate()))).is_file():
            yield str(file), path.read_text(encoding="utf-8", errors="replace")


def licences_file() -> str:
    """All licences, package after package."""
    pieces = []
    for package in packages():
        stated = ", ".join(each.get("expression") or each["license"]["name"] for each in licences(package))
        pieces.append(f"{'=' * 72}\n{package.metadata['Name']} {package.version}: {stated or 'no licence stated'}\n")
        pieces += [f"{'-' * 72}\n{name}\n\n{text.rstrip()}\n" for name, text in licence_texts(package)]
    return "\n".join(pieces)


def main() -> None:
    """Write both files."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sbom.cdx.json").write_text(json.dumps(bill(), indent=1) + "\n", encoding="utf-8")
    (directory / "licences.txt").write_text(licences_file(), encoding="utf-8")


if __name__ == "__main__":
    main()
