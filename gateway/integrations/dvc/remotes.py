"""Contents of a DVC remote by their MD5: a directory, an HTTP(S) server, or S3 (with the extra ``s3``).

A remote that is away, or has other contents than their MD5 says, is asked again later (`RegistryError`): a digest names
one content for ever, so it is the remote that is wrong and may be mended.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

import httpx

from gateway.integrations.download import Downloads, too_large
from gateway.integrations.dvc.pins import Pin, in_manifest
from gateway.integrations.errors import RegistryError
from gateway.integrations.http import http_client

_PIECE_BYTES = 256 * 1024
_MANIFEST_BYTES_MAX = 16 << 20


class Remote(Protocol):
    """Where contents lie."""

    def pieces(self, key: str) -> AsyncIterator[bytes]:
        """The content at a key. Raises RegistryError."""

    async def close(self) -> None:
        """Close its connections."""


def remote_at(url: str, timeout_s: float, token: str | None) -> Remote:
    """The remote with this address. Raises RegistryError for a kind that cannot be read."""
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return _HttpRemote(url, timeout_s, token)
    if scheme == "s3":
        return _S3Remote(url, timeout_s)
    if scheme in ("", "file"):
        return _DirectoryRemote(Path(unquote(urlsplit(url).path) if scheme else url))
    raise RegistryError(f"remote {url}: {scheme} cannot be read: use a directory, http, https or s3")


async def fetch(remote: Remote, pin: Pin, name: str, downloads: Downloads, bytes_max: int) -> str:
    """Download what is pinned, named ``name`` where the pin is a file's; the digest of the model's file."""
    if not pin.below:
        if (pin.size_bytes or 0) > bytes_max:
            raise too_large(bytes_max)
        await _checked(remote, pin, name, downloads)
        return f"md5:{pin.md5}"
    digest = ""
    for beside, one in in_manifest(await manifest(remote, pin), pin):
        await _checked(remote, one, beside, downloads)
        digest = f"md5:{one.md5}" if pin.below.rpartition("/")[2] == beside else digest
    return digest


async def manifest(remote: Remote, pin: Pin) -> bytes:
    """The manifest of the folder that is pinned. Raises RegistryError."""
    content = b""
    async for piece in remote.pieces(_key(pin)):
        content += piece
        if len(content) > _MANIFEST_BYTES_MAX:
            raise RegistryError(f"the manifest {pin.md5} has more than {_MANIFEST_BYTES_MAX} bytes")
    _check(hashlib.md5(content, usedforsecurity=False).hexdigest(), pin, len(content))
    return content


async def _checked(remote: Remote, pin: Pin, name: str, downloads: Downloads) -> None:
    received = await downloads.take(name, remote.pieces(_key(pin)), "md5")
    _check(received.digest.removeprefix("md5:"), pin, received.size_bytes)


def _check(found: str, pin: Pin, size_bytes: int) -> None:
    expected = pin.md5.removesuffix(".dir")
    if found != expected:
        raise RegistryError(
            f"the remote's content {pin.md5} has {size_bytes} bytes and the digest {found}: it is damaged or truncated;"
            " run dvc push again"
        )


def _key(pin: Pin) -> str:
    return f"{'' if pin.legacy else 'files/md5/'}{pin.md5[:2]}/{pin.md5[2:]}"


def _missing(where: str) -> RegistryError:
    return RegistryError(f"{where} does not exist: run dvc push")


class _DirectoryRemote:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def pieces(self, key: str) -> AsyncIterator[bytes]:
        path = self._folder / key
        try:
            file = await asyncio.to_thread(path.open, "rb")
        except FileNotFoundError:
            raise _missing(str(path)) from None
        except OSError as error:
            raise RegistryError(f"{path}: {error.strerror}") from None
        with file:
            while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
                yield piece

    async def close(self) -> None:
        """Nothing is open."""


class _HttpRemote:
    def __init__(self, url: str, timeout_s: float, token: str | None) -> None:
        self._url = url.rstrip("/")
        self._http = http_client(url, timeout_s, token, follow_redirects=True)

    async def pieces(self, key: str) -> AsyncIterator[bytes]:
        url = f"{self._url}/{quote(key)}"
        try:
            async with self._http.stream("GET", url) as answer:
                if answer.status_code == 404:
                    raise _missing(url)
                if not answer.is_success:
                    raise RegistryError(f"{url} was answered {answer.status_code} {answer.reason_phrase}")
                if answer.headers.get("content-type", "").startswith("text/html"):
                    raise RegistryError(f"{url} was answered with HTML, as login pages are: check address and token")
                async for piece in answer.aiter_bytes(_PIECE_BYTES):
                    yield piece
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RegistryError(f"{url}: {type(error).__name__}: {error}") from None

    async def close(self) -> None:
        await self._http.aclose()


class _S3Remote:
    """By boto3, which finds credentials, region and endpoint as everywhere; it blocks, so on threads."""

    def __init__(self, url: str, timeout_s: float) -> None:
        try:
            import boto3  # noqa: PLC0415  # an extra: only where a remote is on S3
            from botocore.config import Config  # noqa: PLC0415  # as above
        except ImportError:
            raise RegistryError(f"remote {url}: install the extra: pip install 'canary-gateway[s3]'") from None
        parts = urlsplit(url)
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        config = Config(connect_timeout=timeout_s, read_timeout=timeout_s, retries={"max_attempts": 1})
        self._client: Any = boto3.client("s3", config=config)

    async def pieces(self, key: str) -> AsyncIterator[bytes]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  # as above

        name = f"{self._prefix}/{key}".strip("/")
        where = f"s3://{self._bucket}/{name}"
        try:
            answer = await asyncio.to_thread(self._client.get_object, Bucket=self._bucket, Key=name)
            while piece := await asyncio.to_thread(answer["Body"].read, _PIECE_BYTES):
                yield piece
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                raise _missing(where) from None
            raise RegistryError(f"{where}: {error}") from None
        except (BotoCoreError, OSError) as error:
            raise RegistryError(f"{where}: {type(error).__name__}: {error}") from None

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)
