"""A configuration to begin with, from the URLs of one or two model servers, and the health paths that they answer.

Rules:

1. Each server is asked for the usual health paths, in the order of `HEALTH_PATHS`; the first that answers 2xx is its
   probe. One that answers none of them is not probed, since a wrong path would look like an endpoint that is down.
   `/health` comes after `/health/readiness`, because LiteLLM calls every model to answer it.
2. A server that cannot be reached at all keeps the default probe: nothing was found out about it.
3. What is written is what `gateway check` accepts, with every other key at its default but those of the protocol.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import httpx

# Open Inference Protocol (Triton, KServe, MLServer); LiteLLM; vLLM, TGI, MLflow; TorchServe; BentoML; others; Ray.
HEALTH_PATHS = (
    "/v2/health/ready",
    "/health/readiness",
    "/health",
    "/ping",
    "/readyz",
    "/healthz",
    "/ready",
    "/-/healthz",
)
# What the servers speak, and the keys of a route that it calls for (docs/recipes.md).
PROTOCOLS = {
    "auto": "",
    "oip": "analysis: {predictions: {protocol: oip}}",
    "json": "analysis: {predictions: {}}",
    "openai": "timeouts: {profile: llm}",
}
_ASK_TIMEOUT_S = 5.0


class ProbedServer(NamedTuple):
    """A server, whether anything answers there, and the first health path that did so with 2xx."""

    url: str
    reached: bool
    probe: str | None

    def __str__(self) -> str:
        if not self.reached:
            return f"{self.url} cannot be reached: keeping the default probe"
        if self.probe is None:
            return f"{self.url} has none of the health paths {', '.join(HEALTH_PATHS)}: probing is off"
        return f"{self.url} answers on {self.probe}: probing that"


def detect(url: str, paths: Sequence[str] = HEALTH_PATHS) -> ProbedServer:
    """Find a server's health path among these."""
    reached = False
    with httpx.Client(timeout=_ASK_TIMEOUT_S) as client:
        for path in paths:
            try:
                status = client.get(url.rstrip("/") + path).status_code
            except httpx.ConnectError:
                break
            except httpx.TransportError:  # a server that starts is slow to answer the first time
                reached = True
                continue
            reached = True
            if 200 <= status < 300:
                return ProbedServer(url, reached=True, probe=path)
    return ProbedServer(url, reached, None)


def starter(stable: ProbedServer, canary: ProbedServer | None, prefix: str = "/", protocol: str = "auto") -> str:
    """The configuration as a commented text; ``protocol`` is one of `PROTOCOLS`."""
    return "\n".join(_lines(stable, canary, prefix, protocol)) + "\n"


def _lines(stable: ProbedServer, canary: ProbedServer | None, prefix: str, protocol: str) -> Iterator[str]:
    yield "# All keys: docs/configuration.md. To validate this file: gateway check FILE"
    yield ""
    yield "listen: 127.0.0.1:8080          # requests arrive here; use 0.0.0.0:8080 for other machines"
    yield "state_dir: state                # journal of decisions, relative to this file; keep it across restarts"
    yield ""
    yield "backends:                       # one per model version; list a replica as another endpoint"
    for name, found in (("v1", stable), ("v2", canary)):
        if found is not None:
            yield f"  {name}:"
            yield f"    endpoints: [{json.dumps(found.url)}]"
            yield from _probe(found)
    yield ""
    yield "routes:"
    yield "  - name: model"
    yield f"    match: {{path_prefix: {json.dumps(prefix)}}}"
    yield "    stable: v1"
    if canary is None:
        yield "    # canary: v2                # the new version, once there is one"
    else:
        yield "    canary: v2"
    if keys := PROTOCOLS[protocol]:
        yield f"    {keys}  # for --protocol {protocol}: docs/recipes.md"
    else:
        yield "    # timeouts: {profile: llm}  # for language models; other servers: docs/recipes.md"
    if canary is not None:
        yield "    plan:                       # 100 % follows the last step; only proof advances a step"
        yield "      steps:"
        # A step is to be longer than the time to the first byte that the protocol allows.
        min_time_s = 300 if protocol == "openai" else 60
        for percent in (1, 5, 25, 50):
            yield f"        - {{percent: {percent}, min_time_s: {min_time_s}, min_requests: 100}}"


def _probe(found: ProbedServer) -> Iterator[str]:
    if not found.reached:
        yield "    # probe: {path: /health}    # unreachable when written; default: /v2/health/ready, null: off"
    elif found.probe is None:
        yield "    probe: null                 # no usual health path answered; {path: ...} if it has another"
    else:
        yield f"    probe: {{path: {json.dumps(found.probe)}}}"
