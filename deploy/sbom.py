"""What this Python environment is made of: a bill of materials (CycloneDX 1.6), and all licences in one file.

    ENVIRONMENT/bin/python deploy/sbom.py DIRECTORY             writes sbom.cdx.json and licences.txt there
    ENVIRONMENT/bin/python deploy/sbom.py --system DIRECTORY    the same with Python itself and Debian's packages

The image's last stage runs the second over all that it contains. It needs nothing but the standard library, and gives
the same files for the same packages.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

SUBJECT = "canary-gateway"
_DPKG, _DOC, _OS = Path("/var/lib/dpkg/status"), Path("/usr/share/doc"), Path("/etc/os-release")
# What Debian's copyright files refer to.
_COMMON_LICENCES = Path("/usr/share/common-licenses")
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


def bill(*, system: bool) -> dict[str, Any]:
    """The bill of materials; with ``system`` also of what is below the packages."""
    every = [component(each) for each in packages()]
    subject = [each | {"type": "application"} for each in every if each["name"] == SUBJECT]
    metadata = {"metadata": {"component": subject[0]}} if subject else {}
    rest = [each for each in every if each["name"] != SUBJECT]
    if system:
        rest += [python(), *(debian_component(each) for each in debian_packages())]
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, **metadata, "components": rest}


def python() -> dict[str, Any]:
    """The interpreter as a component."""
    version = platform.python_version()
    url = f"pkg:generic/python@{version}"
    licence = [{"license": {"id": "Python-2.0"}}]
    return {
        "type": "platform",
        "bom-ref": url,
        "name": "python",
        "version": version,
        "purl": url,
        "licenses": licence,
    }


def debian_packages() -> list[dict[str, str]]:
    """The fields of every installed package of Debian, by name. Raises OSError where dpkg keeps none."""
    found = []
    for paragraph in _DPKG.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(re.findall(r"^(\w[\w-]*): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            found.append(fields)
    return sorted(found, key=lambda fields: (fields["Package"], fields["Architecture"]))


def debian_component(fields: dict[str, str]) -> dict[str, Any]:
    """One package of Debian as a component."""
    name, version = fields["Package"], fields["Version"]
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _OS.read_text(encoding="utf-8"), re.MULTILINE))
    where = f"arch={fields['Architecture']}&distro={release.get('ID', 'debian')}-{release.get('VERSION_ID', '')}"
    url = f"pkg:deb/{release.get('ID', 'debian')}/{name}@{version.replace(':', '%3A')}?{where}"
    found: dict[str, Any] = {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}
    text = debian_copyright(fields)
    # Of a file in Debian's machine-readable form.
    stated = re.findall(r"^License: *(\S.*)$", text, re.MULTILINE) if text.startswith("Format:") else []
    if stated:
        found["licenses"] = [{"license": {"name": name}} for name in sorted({each.strip() for each in stated})]
    return found


def debian_copyright(fields: dict[str, str]) -> str:
    """The copyright file of a package of Debian; empty where it has none."""
    path = _DOC / fields["Package"] / "copyright"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def licence_texts(package: Distribution) -> Iterator[tuple[str, str]]:
    """The name and the text of each file of the package that states a licence."""
    for file in sorted(package.files or (), key=str):
        inside = ".dist-info/" in str(file)
        if inside and _LICENCE_FILE.search(file.name) and (path := Path(str(file.locate()))).is_file():
            yield str(file), path.read_text(encoding="utf-8", errors="replace")


def licences_file(*, system: bool) -> str:
    """All licences, package after package; with ``system`` also of what is below the packages."""
    return "\n".join([*_of_packages(), *(_of_system() if system else ())])


def _of_system() -> Iterator[str]:
    own = Path(sysconfig.get_path("stdlib"), "LICENSE.txt")
    text = own.read_text(encoding="utf-8") if own.is_file() else "https://docs.python.org/3/license.html\n"
    yield f"{'=' * 72}\nPython {platform.python_version()}: Python-2.0\n\n{text.rstrip()}\n"
    for fields in debian_packages():
        title = f"{fields['Package']} {fields['Version']} (Debian)"
        yield f"{'=' * 72}\n{title}\n\n{debian_copyright(fields).rstrip() or 'no copyright file'}\n"
    for path in sorted(_COMMON_LICENCES.glob("*")):
        if path.is_file() and not path.is_symlink():
            yield f"{'=' * 72}\n{path}\n\n{path.read_text(encoding='utf-8', errors='replace').rstrip()}\n"


def _of_packages() -> list[str]:
    pieces = []
    for package in packages():
        stated = ", ".join(each.get("expression") or each["license"]["name"] for each in licences(package))
        pieces.append(f"{'=' * 72}\n{package.metadata['Name']} {package.version}: {stated or 'no licence stated'}\n")
        pieces += [f"{'-' * 72}\n{name}\n\n{text.rstrip()}\n" for name, text in licence_texts(package)]
    return pieces


def main() -> None:
    """Write both files."""
    system, directory = "--system" in sys.argv[1:-1], Path(sys.argv[-1])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sbom.cdx.json").write_text(json.dumps(bill(system=system), indent=1) + "\n", encoding="utf-8")
    (directory / "licences.txt").write_text(licences_file(system=system), encoding="utf-8")


if __name__ == "__main__":
    main()
