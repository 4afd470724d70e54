"""The image, without an engine: what is run in it is run here, each path and port is held against the repo.

`.ci/lint` reads the Dockerfile itself.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]


class Instruction(NamedTuple):
    """One instruction: its keyword, the flags (`--from=build`) and what follows."""

    keyword: str
    flags: dict[str, str]
    rest: str


def instructions() -> list[Instruction]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [_instruction(line) for line in joined.splitlines()]


def _instruction(line: str) -> Instruction:
    keyword, rest = line.split(maxsplit=1)
    flags = {}
    while flag := re.match(r"--([\w-]+)=(\S+)\s+", rest):
        flags[flag[1]] = flag[2]
        rest = rest[flag.end() :]
    return Instruction(keyword, flags, rest)


def last(keyword: str) -> Instruction:
    """The one that counts in the final image."""
    return [each for each in final_stage() if each.keyword == keyword][-1]


def final_stage() -> list[Instruction]:
    every = instructions()
    start = max(at for at, each in enumerate(every) if each.keyword == "FROM")
    return every[start:]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path from the builder: the last pattern that matches it or a parent decides."""
    parts = path.split("/")
    prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    verdict = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        bare = pattern.removeprefix("!")
        if any(_matches(prefix, bare) for prefix in prefixes):
            verdict = not pattern.startswith("!")
    return verdict


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch(path.rpartition("/")[2], pattern.removeprefix("**/"))
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def copied() -> list[tuple[str, str]]:
    """Every (source, destination) that is copied out of the repo."""
    copies = [each for each in instructions() if each.keyword in {"COPY", "ADD"} and "from" not in each.flags]
    return [(source, each.rest.split()[-1]) for each in copies for source in each.rest.split()[:-1]]


def config() -> dict[str, object]:
    loaded = yaml.safe_load((ROOT / "config" / "gateway.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_the_bill_of_materials_is_made_of_what_the_image_has(tmp_path: Path) -> None:
    (made,) = (each for each in final_stage() if each.keyword == "RUN" and "sbom.py" in each.rest)
    python, mounted, system, place = made.rest.split()
    assert (python, system) == ("/opt/gateway/bin/python", "--system") and place.startswith("/opt/gateway/")
    mount = dict(each.split("=") for each in made.flags["mount"].split(","))
    assert mount == {"type": "bind", "source": "deploy/sbom.py", "target": mounted} and not ignored(mount["source"])
    script = ROOT / mount["source"]
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text(encoding="utf-8"))
    here = {re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): each.version for each in distributions()}
    listed = {each["name"]: each["version"] for each in (bill["metadata"]["component"], *bill["components"])}
    assert listed == here
    texts = (tmp_path / "licences.txt").read_text(encoding="utf-8")
    assert all(
        f"\n{name} {version}: " in texts for name, version in (("click", here["click"]), ("numpy", here["numpy"]))
    )
    assert texts.count("Redistribution and use in source and binary forms") > 3


def test_all_that_is_copied_exists_and_reaches_the_builder() -> None:
    sources = [source for source, _ in copied()]
    wanted = {"pyproject.toml", "setup.py", "README.md", "LICENSE", "requirements-image.lock"}
    assert wanted | {"gateway", "models", "config/gateway.yaml"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if ignored(source)] == []


def test_nothing_else_reaches_the_builder() -> None:
    assert all(ignored(path) for path in (".git", ".venv/bin/python", "tests/conftest.py", "docs/x.md", "config/state"))
    assert ignored("gateway/__pycache__/cli.pyc") and ignored("gateway/core/__pycache__/types.pyc")
    assert not ignored("gateway/core/types.py") and not ignored("models/heldout.json")


def test_links_among_the_copied_folders_stay_within_them() -> None:
    places = {source: dest for source, dest in copied() if (ROOT / source).is_dir()}
    assert places.items() >= {("gateway", "gateway"), ("models", "models")}, "both keep their names side by side"
    links = [path for source in places for path in (ROOT / source).rglob("*") if path.is_symlink()]
    targets = {path.resolve().relative_to(ROOT).parts[0] for path in links if not path.readlink().is_absolute()}
    assert len(links) >= 1 and targets <= places.keys()


def test_ports_and_paths_are_those_of_the_configuration() -> None:
    loaded = config()
    assert ("config/gateway.yaml", json.loads(last("CMD").rest)[1]) in copied()
    assert loaded["listen"] == f"0.0.0.0:{last('EXPOSE').rest}", "a container is reached from outside"
    admin = loaded["admin"]
    assert isinstance(admin, dict) and f"'http://{admin['listen']}/healthz'" in last("HEALTHCHECK").rest
    assert loaded["state_dir"] == "./state"
    assert f"ln -s {last('VOLUME').rest} /etc/gateway/state" in last("RUN").rest


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (None, False)])
def test_the_health_check_distinguishes_healthy_from_unhealthy(status: int | None, healthy: bool) -> None:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert status is not None
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Health)
    port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        if status is None:
            server.shutdown()
            server.server_close()
        program = json.loads(last("HEALTHCHECK").rest.removeprefix("CMD "))[2].replace(":9900/", f":{port}/")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
        assert (done.returncode == 0) is healthy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
