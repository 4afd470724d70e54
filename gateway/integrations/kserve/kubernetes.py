"""The calls to the Kubernetes API: an InferenceService is read, and patched.

Rules:

1. The service account's token is read for each request, as Kubernetes renews it; its authority is read again after a
   failure. Nothing but that authority is trusted.
2. What goes wrong is an ExternalError that says what to do. A conflict (another writer came first) is none: the object
   is read again.

Source: Kubernetes API concepts (resource versions, merge patch), KServe API v1beta1.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httpx

from gateway.config.actuators import KserveConfig
from gateway.integrations.errors import ExternalError
from gateway.runtime.loopback import is_loopback

_TEXT_CHARS_MAX = 300
_HINTS = {
    401: "the token is not accepted: is token_file the service account's?",
    403: "give the service account the verbs get and patch for inferenceservices.serving.kserve.io in that namespace",
    404: "there is no such InferenceService, or KServe is not installed",
    422: "KServe refuses the change",
}


class InferenceServices:
    """One InferenceService."""

    def __init__(self, config: KserveConfig) -> None:
        self._config = config
        self._path = f"/apis/serving.kserve.io/v1beta1/namespaces/{config.namespace}/inferenceservices/{config.name}"
        self._http: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close its connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def get(self) -> dict[str, Any]:
        """The object. Raises ExternalError."""
        found = await self._call("GET")
        assert found is not None  # only a patch conflicts
        return found

    async def patch(self, patch: dict[str, Any]) -> dict[str, Any] | None:
        """The object as patched; None where it has changed meanwhile. Raises ExternalError."""
        return await self._call("PATCH", patch)

    async def _call(self, method: str, patch: dict[str, Any] | None = None) -> dict[str, Any] | None:
        what = f"{method} {self._config.api}{self._path}"
        try:
            token = (await asyncio.to_thread(self._config.token_file.read_text, "utf-8")).strip()
            http = await self._connected()
        except (OSError, ValueError) as error:
            raise ExternalError(f"the Kubernetes API cannot be asked: {error}") from None
        headers = {"authorization": f"Bearer {token}"}
        given: dict[str, Any] = {}
        if patch is not None:
            headers["content-type"] = "application/merge-patch+json"
            given = {"json": patch, "params": {"fieldManager": "canary-gateway"}}
        try:
            answer = await http.request(method, f"{self._config.api.rstrip('/')}{self._path}", headers=headers, **given)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            await self.close()
            said = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
            raise ExternalError(f"the Kubernetes API cannot be reached ({what}): {said}") from None
        return _object(answer, what)

    async def _connected(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = await asyncio.to_thread(self._client)
        return self._http

    def _client(self) -> httpx.AsyncClient:
        config = self._config
        verify: ssl.SSLContext | bool = False  # there is no certificate to a plain address
        if config.api.startswith("https:"):
            verify = ssl.create_default_context(cafile=str(config.ca_file))
        return httpx.AsyncClient(
            verify=verify,
            timeout=config.timeout_s,
            trust_env=not is_loopback(config.api),
            headers={"user-agent": "canary-gateway", "accept": "application/json"},
        )


def _object(answer: httpx.Response, what: str) -> dict[str, Any] | None:
    if answer.status_code == 409:
        return None
    try:
        found = answer.json()
    except ValueError:
        found = None
    if answer.is_success and isinstance(found, dict):
        return found
    said = found.get("message", "") if isinstance(found, dict) else "no JSON"
    hint = _HINTS.get(answer.status_code, "")
    text = "; ".join(part for part in (str(said)[:_TEXT_CHARS_MAX], hint) if part)
    raise ExternalError(f"{what} was answered {answer.status_code}: {text}")
