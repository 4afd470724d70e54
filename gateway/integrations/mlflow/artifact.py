"""The files of a version: looked at, downloaded, checked, and put in place whole.

Refused, each with its reason: a version without an ONNX flavour, with inputs that the serving version does not take,
larger than the limit, or with another digest than the one it was registered or served with.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gateway.config.document import read_tree
from gateway.config.errors import BadValue
from gateway.integrations.download import downloads, too_large
from gateway.integrations.errors import RefusedVersionError, RegistryError
from gateway.integrations.mlflow.registry import Registry

# A training pipeline may tag the version with the digest of its model file.
DIGEST_TAG = "canary.digest"


class Artifact(NamedTuple):
    """A downloaded model: its file, and the digest of it."""

    path: Path
    digest: str


class Described(NamedTuple):
    """What a version's MLmodel says: the path of the ONNX file, and the inputs that it takes (None: not said)."""

    model_file: str
    inputs: Any


async def described(registry: Registry, root: str) -> Described:
    """What the version is. Raises RefusedVersionError, RegistryError."""
    text = await registry.small_file(root, "MLmodel")
    try:
        tree = read_tree(text.decode())
        model_file = tree["flavors"]["onnx"]["data"]
        signature = tree.get("signature") or {}
        inputs = signature.get("inputs")
        inputs = json.loads(inputs) if isinstance(inputs, str) else None
    except (BadValue, ValueError, TypeError, AttributeError) as error:
        raise RefusedVersionError(f"its MLmodel cannot be read: {error}") from None
    except KeyError:
        raise RefusedVersionError("it has no ONNX model: log it with mlflow.onnx.log_model") from None
    path = PurePosixPath(str(model_file))
    if path.is_absolute() or ".." in path.parts:
        raise RefusedVersionError(f"its MLmodel names a file outside the version: {model_file}")
    return Described(str(path), inputs)


def check_inputs(challenger: Described, serving: Described | None) -> None:
    """Raise RefusedVersionError for inputs that differ from those of the version that serves."""
    if serving is None or challenger.inputs is None or serving.inputs is None:
        return
    if challenger.inputs != serving.inputs:
        raise RefusedVersionError(
            f"its inputs are {_short(challenger.inputs)}, those of the serving version {_short(serving.inputs)}:"
            " clients of the route could not be served by it"
        )


async def fetched(
    registry: Registry, root: str, model_file: str, folder: Path, *, bytes_max: int, expected: str
) -> Artifact:
    """The model file, with those that lie beside it under its name, in ``folder``. Raises as `described` does."""
    wanted = [one for one in await registry.files(root) if one.path == model_file or one.path.startswith(model_file)]
    if not any(one.path == model_file for one in wanted):
        raise RefusedVersionError(f"its model file {model_file} is missing")
    if sum(one.size_bytes or 0 for one in wanted) > bytes_max:
        raise too_large(bytes_max)
    async with downloads(folder, bytes_max) as taken:
        digest = ""
        for one in wanted:
            pieces = registry.download(root, one.path)
            received = await taken.take(PurePosixPath(one.path).name, pieces, "sha256")
            if one.size_bytes is not None and received.size_bytes != one.size_bytes:
                raise RegistryError(f"{one.path} has {one.size_bytes} bytes, {received.size_bytes} were received")
            digest = received.digest if one.path == model_file else digest
        if expected and digest != expected:
            raise RefusedVersionError(f"the digest of {model_file} is {digest}, and not {expected} as it should be")
    return Artifact(folder / PurePosixPath(model_file).name, digest)


def _short(inputs: Any) -> str:
    text = json.dumps(inputs)
    return text if len(text) <= 200 else f"{text[:200]}..."
