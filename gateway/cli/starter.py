"""A configuration to begin with, from the URLs of one or two model servers, and what was found out by asking them.

Rules:

1. Each server is asked for the usual health paths, in the order of `HEALTH_PATHS`; the first that answers 2xx is its
   probe. One that answers none of them is not probed, since a wrong path would look like an endpoint that is down.
2. A server that cannot be reached at all keeps the default probe: nothing was found out about it.
3. What is written is what `gateway check` accepts, with every other key at its default.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import httpx

# Open Inference Protocol (Triton, KServe, MLServer); vLLM, TGI; MLflow, TorchServe; BentoML and others.
HEALTH_PATHS = (
    "/v2/health/ready",
    "/health",
    "/ping",
    "/readyz",
    "/healthz",
    "/ready",
    "/-/healthz",
    "/health/readiness",
)
_ASK_TIMEOUT_S = 2.0


class ProbedServer(NamedTuple):
    """A server, whether anything answers there, and the first health path that did so with 2xx."""

    url: str
    reached: bool
    probe: str | None

    def __str__(self) -> str:
        if not self.reached:
            return f"{self.url} cannot be reached now: the default probe stays"
        if self.probe is None:
            return f"{self.url} answers none of {', '.join(HEALTH_PATHS)}: it is not probed"
        return f"{self.url} answers {self.probe}: that is its probe"


def look(url: str) -> ProbedServer:
    """Ask a server for the usual health paths."""
    reached = False
    with httpx.Client(timeout=_ASK_TIMEOUT_S) as client:
        for path in HEALTH_PATHS:
            try:
                status = client.get(url.rstrip("/") + path).status_code
            except httpx.TransportError:
                if not reached:
                    break
                continue
            reached = True
            if 200 <= status < 300:
                return ProbedServer(url, reached=True, probe=path)
    return ProbedServer(url, reached, None)


def starter(stable: ProbedServer, canary: ProbedServer | None, prefix: str = "/") -> str:
    """The configuration as a commented text."""
    return "\n".join(_lines(stable, canary, prefix)) + "\n"


def _lines(stable: ProbedServer, canary: ProbedServer | None, prefix: str) -> Iterator[str]:
    yield "# What each key means, and every other one: docs/configuration.md. To validate: gateway check FILE"
    yield ""
    yield "listen: 127.0.0.1:8080          # where requests come in; 0.0.0.0:8080 for other machines"
    yield "state_dir: state                # what was decided; relative to this file. Keep it across restarts"
    yield ""
    yield "backends:                       # a version of the model each; more endpoints are more replicas of it"
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
        yield "    # canary: v2                # the new version, when there is one"
    else:
        yield "    canary: v2"
        yield "    # timeouts: {profile: llm}  # for language models"
        yield "    plan:                       # after the last step comes all of it; only proof climbs a step"
        yield "      steps:"
        for percent in (1, 5, 25, 50):
            yield f"        - {{percent: {percent}, min_time_s: 60, min_requests: 100}}"


def _probe(found: ProbedServer) -> Iterator[str]:
    if not found.reached:
        yield "    # probe: {path: /health}    # it could not be asked; the default is /v2/health/ready, null is none"
    elif found.probe is None:
        yield "    probe: null                 # it answered none of the usual health paths; {path: ...} if it has one"
    else:
        yield f"    probe: {{path: {found.probe}}}"
