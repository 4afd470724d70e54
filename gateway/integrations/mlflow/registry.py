"""The calls to an MLflow server, and what goes wrong with them.

A registry that is away, slow or answers nonsense is tried again later (`RegistryError`); a version that cannot be
served is refused for good (`RefusedVersionError`); what is not there is None.

Source: MLflow 3.17, REST API 2.0 (registered models, model versions, mlflow-artifacts).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from gateway.integrations.errors import RefusedVersionError, RegistryError
from gateway.integrations.http import http_client

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
_FILES_MAX = 1000
_SMALL_BYTES_MAX = 1 << 20


class RegisteredVersion(NamedTuple):
    """A version of the model: its number and its tags."""

    version: str
    tags: Mapping[str, str]


class ArtifactFile(NamedTuple):
    """A file of a version: its path below the version's, and its size if the registry says so."""

    path: str
    size_bytes: int | None


class Registry:
    """One model of an MLflow server."""

    def __init__(self, uri: str, model: str, timeout_s: float, token: str | None) -> None:
        self.model = model
        self._uri = uri.rstrip("/")
        self._http = http_client(uri, timeout_s, token)

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    # the registry

    async def version_of(self, alias: str) -> RegisteredVersion | None:
        """The version that the alias stands for, if there is one."""
        params = {"name": self.model, "alias": alias}
        return _version(await self._call("GET", f"{_API}/registered-models/alias", params=params, absent=True))

    async def version(self, number: str) -> RegisteredVersion | None:
        """One version, None when it was deleted."""
        params = {"name": self.model, "version": number}
        return _version(await self._call("GET", f"{_API}/model-versions/get", params=params, absent=True))

    async def move_alias(self, alias: str, number: str) -> bool:
        """Make the alias stand for this version; False when the version was deleted."""
        body = {"name": self.model, "alias": alias, "version": number}
        return await self._call("POST", f"{_API}/registered-models/alias", body=body, absent=True) is not None

    async def remove_alias(self, alias: str) -> None:
        """Remove the alias."""
        body = {"name": self.model, "alias": alias}
        await self._call("DELETE", f"{_API}/registered-models/alias", body=body, absent=True)

    async def tag(self, number: str, tags: Mapping[str, str]) -> None:
        """Write tags to a version, in their order; nothing where the version was deleted."""
        for key, value in tags.items():
            body = {"name": self.model, "version": number, "key": key, "value": value[:5000]}
            if await self._call("POST", f"{_API}/model-versions/set-tag", body=body, absent=True) is None:
                return

    # artifacts

    async def artifact_root(self, number: str) -> str:
        """Where the files of a version are on the server; RefusedVersionError for files that it does not serve."""
        params = {"name": self.model, "version": number}
        found = await self._call("GET", f"{_API}/model-versions/get-download-uri", params=params)
        uri = str(found.get("artifact_uri", ""))
        scheme, _, rest = uri.partition(":")
        if scheme != "mlflow-artifacts":
            raise RefusedVersionError(
                f"its files are at {uri}, which the MLflow server does not serve: start it with --artifacts-destination"
            )
        # mlflow-artifacts:/path, or mlflow-artifacts://host/path
        return rest.split("/", 3)[3] if rest.startswith("//") else rest.strip("/")

    async def files(self, root: str, below: str = "") -> list[ArtifactFile]:
        """All files of a version, those in its folders too."""
        found: list[ArtifactFile] = []
        folders = [below]
        while folders:
            folder = folders.pop()
            answer = await self._call("GET", _ARTIFACTS, params={"path": _joined(root, folder)})
            for entry in answer.get("files", ()):
                path = _joined(folder, str(entry["path"]).rpartition("/")[2])
                if entry.get("is_dir"):
                    folders.append(path)
                else:
                    size = entry.get("file_size")
                    found.append(ArtifactFile(path, None if size is None else int(size)))
            if len(found) + len(folders) > _FILES_MAX:
                raise RefusedVersionError(f"it has more than {_FILES_MAX} files")
        return found

    async def small_file(self, root: str, path: str) -> bytes:
        """A file's content, which must be small."""
        content = b""
        async for piece in self.download(root, path):
            content += piece
            if len(content) > _SMALL_BYTES_MAX:
                raise RefusedVersionError(f"{path} has more than {_SMALL_BYTES_MAX} bytes")
        return content

    async def download(self, root: str, path: str) -> Any:
        """The pieces of a file."""
        url = f"{self._uri}{_ARTIFACTS}/{quote(_joined(root, path))}"
        try:
            async with self._http.stream("GET", url) as answer:
                if answer.status_code == 404:
                    raise RefusedVersionError(f"the file {path} is missing")
                if not answer.is_success:
                    raise RegistryError(f"{answer.status_code} {answer.reason_phrase} for {path}")
                async for piece in answer.aiter_bytes():
                    yield piece
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RegistryError(f"{type(error).__name__}: {error}") from None

    async def _call(self, method: str, path: str, *, params: Any = None, body: Any = None, absent: bool = False) -> Any:
        """The JSON of an answer; with ``absent``, None for what is not there."""
        try:
            answer = await self._http.request(method, f"{self._uri}{path}", params=params, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RegistryError(f"{type(error).__name__}: {error}") from None
        try:
            found = answer.json()
        except ValueError:
            found = None
        if answer.is_success and isinstance(found, dict):
            return found
        code = found.get("error_code") if isinstance(found, dict) else None
        if absent and answer.status_code in (400, 404) and code in _ABSENT:
            return None
        what = f"{code}: {found.get('message', '')}" if isinstance(found, dict) and code else "no JSON of MLflow's"
        raise RegistryError(f"{method} {path} was answered {answer.status_code}: {what}")


def _version(answer: Any) -> RegisteredVersion | None:
    if answer is None:
        return None
    try:
        found = answer["model_version"]
        return RegisteredVersion(str(found["version"]), dict(_tags(found.get("tags", ()))))
    except (KeyError, TypeError):
        raise RegistryError("the answer has no model_version") from None


def _tags(tags: Any) -> Iterator[tuple[str, str]]:
    for tag in tags:
        yield str(tag["key"]), str(tag.get("value", ""))


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}".strip("/")
