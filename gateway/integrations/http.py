"""The HTTP client that registries and remotes are asked with."""

from __future__ import annotations

import httpx

from gateway.runtime.loopback import is_loopback


def http_client(url: str, timeout_s: float, token: str | None, *, follow_redirects: bool = False) -> httpx.AsyncClient:
    """A client for the server at this URL, with the bearer token if there is one."""
    headers = {"user-agent": "canary-gateway"} | ({} if token is None else {"authorization": f"Bearer {token}"})
    here = is_loopback(url)
    # To load the authorities takes longer than all that is asked; plain HTTP on this machine needs none.
    plain = here and url.startswith("http:")
    return httpx.AsyncClient(
        headers=headers, timeout=timeout_s, trust_env=not here, verify=not plain, follow_redirects=follow_redirects
    )
