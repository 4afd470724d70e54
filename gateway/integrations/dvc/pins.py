"""What a commit pins: the digest and size of a path, by a `.dvc` file, a `dvc.lock` or the manifest of a folder.

Source: DVC 3.67, the formats of .dvc files, dvc.lock and .dvc/config. Files pinned by DVC 2 have no ``hash`` and lie
elsewhere in the remote.
"""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from gateway.config.document import read_tree
from gateway.config.errors import BadValue
from gateway.integrations.dvc.clone import RepositoryClone
from gateway.integrations.errors import RefusedVersionError, RegistryError

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_MANIFEST_FILES_MAX = 100_000


class Pin(NamedTuple):
    """Content in the remote: its MD5, its size if that is known, and whether DVC 2 put it there.

    ``below`` is not "" where the MD5 is a folder's manifest, and the file is this one in it.
    """

    md5: str
    size_bytes: int | None
    legacy: bool
    below: str = ""


async def pin_of(clone: RepositoryClone, commit: str, path: str) -> Pin:
    """What the commit pins for the path. Raises RefusedVersionError, RegistryError."""
    wanted = PurePosixPath(path)
    folders = [str(folder) for folder in wanted.parents]
    candidates = [f"{one}.dvc" for one in (path, *folders[:-1])] + [_in(folder, "dvc.lock") for folder in folders]
    files = await clone.files(commit, candidates)
    for name in candidates:
        if name in files:
            for out in _outs(name, _tree(name, files[name])):
                pin = _pin(name, out, wanted)
                if pin is not None:
                    return pin
    raise RefusedVersionError(f"{path} is tracked by no .dvc file and no dvc.lock at commit {commit[:12]}: run dvc add")


async def remote_of(clone: RepositoryClone, commit: str, path: str) -> str:
    """The address of the default remote, as the repository's configuration says. Raises RegistryError."""
    folders = [str(folder) for folder in PurePosixPath(path).parents]
    files = await clone.files(commit, [_in(folder, ".dvc/config") for folder in folders])
    for folder in folders:
        name = _in(folder, ".dvc/config")
        if name in files:
            url = _default_url(files[name].decode("utf-8", "replace"))
            if url is None:
                raise RegistryError(f"{name} names no default remote: name it in the source (`remote`)")
            if "://" in url or url.startswith("/"):
                return url
            if not clone.repo.startswith("/"):
                raise RegistryError(f"the remote {url} of {name} is relative: name it in the source (`remote`)")
            return str(PurePosixPath(clone.repo, _in(folder, ".dvc"), url))
    raise RegistryError("the commit has no .dvc/config: name the remote in the source (`remote`)")


def in_manifest(content: bytes, pin: Pin) -> list[tuple[str, Pin]]:
    """The names and pins of the file in a folder's manifest, and of those beside it that begin with its name."""
    try:
        entries = [(str(one["relpath"]), str(one["md5"])) for one in json.loads(content)[:_MANIFEST_FILES_MAX]]
    except (ValueError, TypeError, KeyError):
        raise RefusedVersionError("the manifest of its folder cannot be read") from None
    found = [(PurePosixPath(name).name, Pin(md5, None, pin.legacy)) for name, md5 in entries if _with(pin.below, name)]
    if not any(name == pin.below for name, _ in entries):
        raise RefusedVersionError(f"its folder has no file {pin.below}")
    if any(_MD5.fullmatch(one.md5) is None or one.md5.endswith(".dir") for _, one in found):
        raise RefusedVersionError("the manifest of its folder has a digest that is not an MD5")
    return found


def _with(below: str, name: str) -> bool:
    """A model's file, or one with its weights in the same folder, such as model.onnx.data."""
    return name.startswith(below) and PurePosixPath(name).parent == PurePosixPath(below).parent


def _in(folder: str, name: str) -> str:
    return name if folder in (".", "") else f"{folder}/{name}"


def _tree(name: str, content: bytes) -> Any:
    try:
        return read_tree(content.decode())
    except (BadValue, ValueError) as error:
        raise RefusedVersionError(f"{name} cannot be read: {error}") from None


def _outs(name: str, tree: Any) -> Iterator[dict[str, Any]]:
    """The outputs that a file pins; what has another form pins nothing."""
    tree = tree if isinstance(tree, dict) else {}
    stages = tree.get("stages") if name.endswith("dvc.lock") else {"": tree}
    for stage in stages.values() if isinstance(stages, dict) else ():
        outs = stage.get("outs") if isinstance(stage, dict) else None
        yield from (out for out in (outs if isinstance(outs, list) else ()) if isinstance(out, dict))


def _pin(name: str, out: dict[str, Any], wanted: PurePosixPath) -> Pin | None:
    """The pin where this output is the wanted path or a folder that has it."""
    place = PurePosixPath(name).parent / str(out.get("path", ""))
    if place != wanted and place not in wanted.parents:
        return None
    md5, size, kind = out.get("md5"), out.get("size"), out.get("hash", "md5")
    if not isinstance(md5, str) or _MD5.fullmatch(md5) is None or kind != "md5":
        raise RefusedVersionError(f"{name} has no MD5 for {place}")
    below = "" if place == wanted else str(wanted.relative_to(place))
    if bool(below) != md5.endswith(".dir"):
        raise RefusedVersionError(f"{wanted} is {'in a file' if below else 'a folder'} in {name}: name the ONNX file")
    return Pin(md5, size if isinstance(size, int) and not below else None, "hash" not in out, below)


def _default_url(text: str) -> str | None:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string("\n".join(line.strip() for line in text.splitlines()))
        name = parser.get("core", "remote", fallback=None)
        quoted = [f'remote "{name}"', f"'remote \"{name}\"'"]
        return next((parser.get(one, "url", fallback=None) for one in quoted if parser.has_section(one)), None)
    except configparser.Error:
        return None
