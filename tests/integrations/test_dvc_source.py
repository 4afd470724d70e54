"""What tags and pins ask for, and what follows a promotion, whatever the remote and the moment of a crash.

The repository is real, by git; DVC and GTO themselves run in tests/pipelines.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.config.sources import DeployerConfig, DvcConfig
from gateway.core.model_version import ModelVersion
from gateway.integrations.deployers import DeploymentBook
from gateway.integrations.dvc.clone import RepositoryClone, Tag
from gateway.integrations.dvc.gto import assignment, version_at, was_removed
from gateway.integrations.dvc.memory import RequestMemory
from gateway.integrations.dvc.source import DvcSource
from gateway.integrations.errors import RegistryError
from gateway.integrations.rollouts import RouteRollouts
from tests.support.route_gateway import RouteGateway

_ENVIRON = {
    **{f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "PATH": os.environ["PATH"],
}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class World:
    """A repository with a remote, a gateway, and as many sources one after the other as control has lives."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.repo, self.remote, self.state = directory / "repo", directory / "remote", directory / "state"
        self.gateway = RouteGateway()
        for folder in (self.repo / ".dvc", self.remote, self.state):
            folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        (self.repo / ".dvc/config").write_text(
            "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../remote\n"
        )
        self.changes: dict[str, Any] = {"stage": "canary"} | changes
        self.deployer = DeployerConfig(command=["/bin/echo", "http://127.0.0.1:9"])

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.repo), *arguments]
        return subprocess.run(command, env=_ENVIRON, check=True, capture_output=True, text=True).stdout.strip()

    def push(self, content: bytes, path: str | None = None) -> Path:
        """Put content into the remote, as `dvc push` does."""
        digest = path or md5(content)
        file = self.remote / "files/md5" / digest[:2] / digest[2:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def pin(self, content: bytes, *, version: str = "", stages: tuple[str, ...] = (), dvc: str | None = None) -> None:
        """Commit a pin and tag it, as `dvc add` and gto do."""
        text = dvc or f"outs:\n- md5: {md5(content)}\n  size: {len(content)}\n  hash: md5\n  path: digits.onnx\n"
        (self.repo / "digits.onnx.dvc").write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "pin")
        for tag in ([f"digits@{version}"] if version else []) + list(stages):
            self.git("tag", "--annotate", "--message", "gto", tag)

    def release(self, number: int, content: bytes = b"", *, path: str | None = None) -> None:
        """A version that is pushed, registered and assigned."""
        content = content or b"onnx %d" % number
        self.push(content, path)
        self.pin(content, version=f"v{number}.0.0", stages=(f"digits#canary#{number}",))

    def step(self) -> None:
        """One look by a source that was just born."""
        given = {"repo": str(self.repo), "path": "digits.onnx", "name": "digits", "route": "digits", "timeout_s": 300.0}
        config = DvcConfig.model_validate(given | {"deployer": self.deployer} | self.changes)
        files = self.state / "models"
        book = DeploymentBook(self.state)
        rollouts = RouteRollouts("digits", config.deployer, self.gateway, book, files, "source dvc:digits")
        clone = RepositoryClone(config.repo, files / "git", config.timeout_s)
        source = DvcSource(config, clone, RequestMemory(files / "dvc-digits.json"), rollouts, None)
        asyncio.run(source.step())

    @property
    def canaries(self) -> list[str]:
        return [view.canary for view in self.gateway.views]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_assignment_starts_a_rollout_of_the_registered_version(world: World) -> None:
    world.release(1)
    world.step()
    world.step()
    (view,) = world.gateway.views
    assert view.model is not None
    assert (view.model.name, view.model.version, view.model.digest) == ("digits", "v1.0.0", f"md5:{md5(b'onnx 1')}")
    assert world.gateway.told == [("started", "v1.0.0")]
    assert [file.read_bytes() for file in world.state.glob("models/digits/*/digits.onnx")] == [b"onnx 1"]


def test_a_stage_that_stable_serves_already_is_no_rollout(world: World) -> None:
    world.gateway.stable = ModelVersion("digits", "v1.0.0", "", f"md5:{md5(b'onnx 1')}")
    world.release(1)
    world.step()
    world.step()
    assert world.gateway.views == [] and world.gateway.told == [("serving", "v1.0.0")]


def test_a_rollback_removes_the_files_and_another_assignment_is_another_try(world: World) -> None:
    world.release(1)
    world.step()
    world.gateway.end("ROLLED_BACK")
    world.step()
    world.step()
    assert world.gateway.released == ["digits-v1.0.0"] and list(world.state.glob("models/digits/*")) == []
    world.git("tag", "--annotate", "--message", "again", "digits#canary#2")
    world.step()
    assert world.canaries == ["digits-v1.0.0", "digits-v1.0.0"]


def test_tags_that_are_removed_moved_or_taken_back(world: World) -> None:
    for number in (1, 2, 3):
        world.release(number)
    world.step()
    assert world.canaries == ["digits-v3.0.0"], "assignments that were overtaken start nothing"
    world.git("tag", "--delete", "digits#canary#3")
    world.step()
    assert world.gateway.views[0].phase == "PROGRESSING", "the rollout goes on"
    world.gateway.end("ROLLED_BACK")
    world.step()
    assert world.canaries == ["digits-v3.0.0"], "the assignment before it does not come back"
    # The number is free again, and goes to another commit.
    world.git("tag", "--annotate", "--message", "moved", "digits#canary#3", "digits@v1.0.0^{}")
    world.step()
    assert world.canaries == ["digits-v3.0.0", "digits-v1.0.0"]
    world.gateway.end("ROLLED_BACK")
    world.git("tag", "--annotate", "--message", "back", "digits#canary!#4")
    world.step()
    assert len(world.gateway.views) == 2


def test_a_tag_that_moves_twice_during_a_rollout(world: World) -> None:
    world.release(1)
    world.step()
    world.release(2)
    world.release(3)
    world.step()
    assert world.canaries == ["digits-v1.0.0"]
    world.gateway.end("ROLLED_BACK")
    world.step()
    assert world.canaries == ["digits-v1.0.0", "digits-v3.0.0"]
    world.gateway.refuses = False
    world.release(4)
    world.step()
    assert world.gateway.views[1].phase == "WITHDRAWN" and world.canaries[2:] == ["digits-v4.0.0"]


def test_a_revision_is_followed_by_its_pin(tmp_path: Path) -> None:
    world = World(tmp_path, stage=None, rev="main")
    first, second = world.push(b"one"), world.push(b"two")
    world.pin(b"one")
    world.step()
    world.gateway.end("ROLLED_BACK")
    (world.repo / "README").write_text("another commit with the same pin")
    world.pin(b"one")
    world.step()
    assert world.canaries == [f"digits-{md5(b'one')[:12]}"]
    world.pin(b"two")
    world.step()
    world.gateway.end("ROLLED_BACK")
    world.pin(b"one")
    world.step()
    versions = [view.model.version for view in world.gateway.views if view.model is not None]
    assert versions == [md5(b"one")[:12], md5(b"two")[:12], md5(b"one")[:12]]
    assert first.exists() and second.exists()


@pytest.mark.parametrize("phase", ["PROMOTED", "ROLLED_BACK"])
def test_a_crash_between_start_and_note_repeats_nothing(world: World, phase: str) -> None:
    world.release(1)
    world.step()
    memory = world.state / "models/dvc-digits.json"
    memory.unlink()
    world.step()
    world.gateway.end(phase)
    world.step()
    memory.unlink()
    world.step()
    assert world.canaries == ["digits-v1.0.0"] and world.gateway.told[0] == ("started", "v1.0.0")


def test_a_promotion_assigns_the_stage_once(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = tmp_path / "assign"
    tagging = f'git -C {world.repo} -c user.name=a -c user.email=a tag "$1#$3#9" "$2^{{}}"'
    script.write_text(f'echo "$@" >> {log}\ntest -e {tmp_path}/up && {tagging}\n')
    world.changes["promotion_command"] = ["/bin/sh", str(script), "{name}", "{name}@{version}", "{stage}"]
    world.release(1)
    world.step()
    world.gateway.end("PROMOTED")
    for _ in range(2):
        with pytest.raises(RegistryError, match=r"v1.0.0 was promoted, and promotion_command failed: .* status 1"):
            world.step()
    (tmp_path / "up").touch()
    world.step()
    (world.state / "models/dvc-digits.json").unlink()
    world.step()
    assert log.read_text().splitlines() == ["digits digits@v1.0.0 prod"] * 3
    assert ("assigned", "v1.0.0") in world.gateway.told and world.canaries == ["digits-v1.0.0"]


@pytest.mark.parametrize("how", ["removed", "moved", "deprecated"])
@pytest.mark.parametrize("end", ["PROMOTED", "ROLLED_BACK"])
def test_a_version_whose_tag_goes_while_it_is_on_canary_keeps_its_rollout(world: World, how: str, end: str) -> None:
    world.changes["promotion_command"] = ["/bin/false"]  # as gto is, where the version is not registered
    world.release(1)
    world.step()
    if how == "deprecated":
        world.git("tag", "--annotate", "--message", "gto", "digits@v1.0.0!#2")
    else:
        world.git("tag", "--delete", "digits@v1.0.0", "digits#canary#1")
    if how == "moved":
        world.pin(b"another", version="v1.0.0")
    world.step()
    assert world.gateway.views[0].phase == "PROGRESSING" and world.gateway.released == []
    world.gateway.end(end)
    for _ in range(2):
        world.step()
    said = [("deleted", "v1.0.0")] if end == "PROMOTED" else []
    assert world.gateway.told == [("started", "v1.0.0"), *said]
    world.release(2)
    world.step()
    assert world.canaries == ["digits-v1.0.0", "digits-v2.0.0"], "the next version gets its rollout"


def test_a_version_that_was_never_registered_has_no_tag_to_lose(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    world.changes["promotion_command"] = ["/bin/sh", "-c", f"echo {{version}} >> {log}"]
    world.push(b"onnx 1")
    world.pin(b"onnx 1", stages=("digits#canary#1",))
    commit = world.git("rev-parse", "HEAD")[:12]
    world.step()
    world.gateway.end("PROMOTED")
    world.step()
    assert log.read_text().split() == [commit]


def test_a_remote_that_has_not_got_it_starts_nothing_and_is_asked_again(world: World) -> None:
    world.pin(b"onnx 1", version="v1.0.0", stages=("digits#canary#1",))
    with pytest.raises(RegistryError, match="does not exist: run dvc push"):
        world.step()
    file = world.push(b"onnx 1")
    file.write_bytes(b"onnx")
    with pytest.raises(RegistryError, match=r"4 bytes and the digest .* damaged or truncated"):
        world.step()
    assert world.gateway.views == [] and world.gateway.told == []
    assert list(world.state.glob("models/digits/*")) == []
    file.write_bytes(b"onnx 1")
    world.step()
    assert world.canaries == ["digits-v1.0.0"]


def test_a_repository_that_is_away_is_asked_again(world: World) -> None:
    world.release(1)
    away = world.repo.rename(world.repo.with_name("away"))
    with pytest.raises(RegistryError, match=r"git fetch: .*repo"):
        world.step()
    away.rename(world.repo)
    world.step()
    assert world.canaries == ["digits-v1.0.0"]


@pytest.mark.parametrize(
    ("dvc", "why"),
    [
        ("outs:\n- path: other.onnx\n  md5: " + "0" * 32 + "\n", "tracked by no .dvc file"),
        ("outs:\n- path: ../digits.onnx\n  md5: " + "0" * 32 + "\n", "tracked by no .dvc file"),
        ("outs:\n- path: digits.onnx\n  md5: ../../../etc/passwd\n", "has no MD5"),
        ("outs:\n- path: digits.onnx\n  etag: a\n  hash: etag\n", "has no MD5"),
        ("outs:\n- path: digits.onnx\n  md5: " + "0" * 32 + ".dir\n", "name the ONNX file"),
        ("outs: {a: [", "cannot be read"),
        ("5", "tracked by no .dvc file"),
        ("outs:\n- path: digits.onnx\n  md5: " + "0" * 32 + "\n  size: 9999\n  hash: md5\n", "more than 1000 bytes"),
    ],
)
def test_what_cannot_be_served_is_refused_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dvc: str, why: str
) -> None:
    world = World(tmp_path, artifact_bytes_max=1000)
    world.pin(b"", version="v1.0.0", stages=("digits#canary#1",), dvc=dvc)
    world.step()
    world.step()
    assert world.gateway.views == [] and world.gateway.told == [("refused", "v1.0.0")] and why in caplog.text


def test_a_file_larger_than_the_limit_is_refused_whatever_its_pin_says(tmp_path: Path) -> None:
    world = World(tmp_path, artifact_bytes_max=1000)
    content = b"x" * 2000
    world.push(content)
    world.pin(
        b"",
        version="v1.0.0",
        stages=("digits#canary#1",),
        dvc=f"outs:\n- path: digits.onnx\n  md5: {md5(content)}\n  hash: md5\n",
    )
    world.step()
    assert world.gateway.told == [("refused", "v1.0.0")] and list(world.state.glob("models/digits/*")) == []


def test_a_version_with_another_file_than_before_is_refused(world: World) -> None:
    world.release(1)
    world.step()
    world.gateway.end("ROLLED_BACK")
    world.git("tag", "--delete", "digits@v1.0.0")
    world.push(b"another")
    world.pin(b"another", version="v1.0.0", stages=("digits#canary#2",))
    world.step()
    assert world.canaries == ["digits-v1.0.0"] and world.gateway.told[-1] == ("refused", "v1.0.0")


def test_a_file_in_a_folder_comes_with_its_weights(tmp_path: Path) -> None:
    world = World(tmp_path, path="out/m/digits.onnx")
    files = {"m/digits.onnx": b"graph", "m/digits.onnx.data": b"weights", "m/other": b"other"}
    manifest = json.dumps([{"md5": md5(content), "relpath": name} for name, content in files.items()]).encode()
    for content in files.values():
        world.push(content)
    world.push(manifest, f"{md5(manifest)}.dir")
    lock = {
        "schema": "2.0",
        "stages": {"train": {"outs": [{"path": "out", "hash": "md5", "md5": f"{md5(manifest)}.dir"}]}},
    }
    (world.repo / "dvc.lock").write_text(json.dumps(lock))
    world.pin(b"", version="v1.0.0", stages=("digits#canary#1",))
    world.step()
    (folder,) = world.state.glob("models/digits/*")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        "digits.onnx": b"graph",
        "digits.onnx.data": b"weights",
    }
    assert world.gateway.views[0].model is not None and world.gateway.views[0].model.digest == f"md5:{md5(b'graph')}"


@pytest.fixture
def http_remote(world: World) -> Iterator[Any]:
    """The remote over HTTP; ``fail`` is the answer to everything while it is set."""

    class Handler(BaseHTTPRequestHandler):
        fail: tuple[int, str, bytes] | None = None

        def do_GET(self) -> None:
            file = world.remote / self.path.removeprefix("/store/")
            found = (200, "application/octet-stream", file.read_bytes()) if file.is_file() else (404, "text/plain", b"")
            status, kind, content = self.fail or found
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    world.changes["remote"] = f"http://127.0.0.1:{server.server_port}/store"
    yield Handler
    server.shutdown()
    server.server_close()


def test_an_http_remote_and_what_it_may_answer(world: World, http_remote: Any) -> None:
    world.release(1)
    for fail, why in (
        ((500, "text/plain", b""), "was answered 500"),
        ((200, "text/html; charset=utf-8", b"<html>log in</html>"), "was answered with HTML"),
        ((200, "application/octet-stream", b"<html>log in</html>"), "damaged or truncated"),
        ((404, "text/plain", b""), "run dvc push"),
    ):
        http_remote.fail = fail
        with pytest.raises(RegistryError, match=why):
            world.step()
    assert world.gateway.views == []
    http_remote.fail = None
    world.step()
    assert world.canaries == ["digits-v1.0.0"]


def test_an_s3_remote(world: World, http_remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By boto3; the server speaks as much of S3 as a GET of a bucket's key needs."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", world.changes["remote"].removesuffix("/store"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    world.changes["remote"] = "s3://store/"
    world.pin(b"onnx 1", version="v1.0.0", stages=("digits#canary#1",))
    with pytest.raises(RegistryError, match=r"s3://store/files/md5/.* does not exist: run dvc push"):
        world.step()
    http_remote.fail = 403, "application/xml", b"<Error><Code>AccessDenied</Code></Error>"
    with pytest.raises(RegistryError, match="AccessDenied"):
        world.step()
    http_remote.fail = None
    world.push(b"onnx 1")
    world.step()
    assert world.canaries == ["digits-v1.0.0"]


def test_an_http_remote_that_is_away(world: World) -> None:
    world.release(1)
    world.changes["remote"] = "http://127.0.0.1:9/store"
    with pytest.raises(RegistryError, match="ConnectError"):
        world.step()
    world.changes["remote"] = "gs://bucket"
    with pytest.raises(RegistryError, match="gs cannot be read"):
        world.step()


def tags(*names: str) -> list[Tag]:
    return [Tag(name, str(index), "c") for index, name in enumerate(names)]


def test_what_tags_say() -> None:
    found = assignment(
        tags("digits#canary#9", "digits#canary#10", "digits#prod#11", "other#canary#12"), "digits", "canary"
    )
    assert found is not None and (found.tag.name, found.counter) == ("digits#canary#10", 10)
    assert assignment(tags("digits#canary#1", "digits#canary!#2"), "digits", "canary") is None
    assert assignment(tags("digits#canary"), "digits", "canary") is not None
    assert assignment(tags("models=digits#canary#1"), "models:digits", "canary") is not None
    assert version_at(tags("digits@v1.9.0", "digits@v1.10.0", "digits@v1.10.0-rc1"), "digits", "c") == "v1.10.0"
    assert version_at(tags("digits@v1.0.0", "digits@v1.0.0!#2"), "digits", "c") is None
    assert not was_removed(tags("digits@v1.0.0", "digits@v1.1.0"), "digits", "v1.0.0", "c")
    assert was_removed(tags("digits@v1.0.0"), "digits", "v1.0.0", "d"), "it is another commit's now"
    assert was_removed(tags("other@v1.0.0"), "digits", "v1.0.0", "c")
    assert not was_removed([], "digits", "0123456789ab", "0123456789ab")
    assert version_at(tags("digits@deprecated#3", "nonsense", "other@v1.0.0"), "digits", "c") is None
