"""A Kubernetes API over real HTTPS with one InferenceService, and the controller that carries out what it declares.

What is documented of both: bearer tokens, merge patches (RFC 7386), resource versions and their conflicts; KServe's
revisions and canary entries, which get requests when they are ready and the controller has come by.
The real server and KServe's controller need binaries and images that no package registry has.
"""

from __future__ import annotations

import copy
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.support.certificates import Authority, Pair

TOKEN = "the-token-of-the-service-account"
PATH = "/apis/serving.kserve.io/v1beta1/namespaces/ml/inferenceservices/digits"
STABLE, CANARY = "digits-predictor-00001", "digits-predictor-00002"


class Certificates:
    """An authority's certificate, and one for 127.0.0.1 that it has signed; any number of APIs can share them."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory, "kubernetes-ca")
        self.authority = authority.pair.cert
        self.server: Pair = authority.sign("127.0.0.1", file="kubernetes")


class KubernetesApi:
    """The API. ``fail`` is a status that all calls are answered with while it is set."""

    def __init__(self, directory: Path, certificates: Certificates, *, raw: bool = False, name: str = "api") -> None:
        self.token = TOKEN
        self.token_file = directory / f"{name}-token"
        self.token_file.write_text(TOKEN + "\n")
        self.ca_file = certificates.authority
        self.fail: int | None = None
        self.patches: list[dict[str, Any]] = []
        self.conflicts = 0
        self.ready = True
        self.works = True
        self.raw = raw
        self.lock = threading.Lock()
        self.service: dict[str, Any] | None = _raw() if raw else _serverless()
        self._version = 1
        self.reconcile()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one packet: in two, the second waits for the client to acknowledge the first.
            wbufsize = 1 << 16

            def do_GET(self) -> None:
                outer._answer(self)

            do_PATCH = do_GET  # noqa: N815  # http.server's own names

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server.cert, certificates.server.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def config(self, **changes: Any) -> dict[str, Any]:
        """The keys of `actuators[].kserve`."""
        mode = "raw" if self.raw else "serverless"
        files = {"ca_file": str(self.ca_file), "token_file": str(self.token_file)}
        return {"namespace": "ml", "name": "digits", "mode": mode, "api": self.url, **files} | changes

    @property
    def share(self) -> float:
        """Which share of the requests the canary gets now."""
        with self.lock:
            if self.service is None:
                return 0.0
            if self.raw:
                statuses = self.service["status"].get("canaryStatuses", [])
                return sum(one["trafficPercent"] for one in statuses if one["ready"]) / 100
            traffic = self.service["status"]["components"]["predictor"]["traffic"]
            return sum(one["percent"] for one in traffic if one.get("revisionName") == CANARY) / 100

    def apply(self, patch: dict[str, Any]) -> None:
        """Somebody else's change."""
        with self.lock:
            assert self.service is not None
            self.service = merged(self.service, patch)
            self._changed()

    def deploy(self, revision: str) -> None:
        """Another revision is deployed, at whatever percent stands there."""
        with self.lock:
            assert self.service is not None
            self.service["status"]["components"]["predictor"]["latestCreatedRevision"] = revision
            self._changed()

    def reconcile(self) -> None:
        """KServe's controller comes by."""
        if self.service is not None and self.works:
            (self._reconcile_raw if self.raw else self._reconcile_serverless)(self.service)

    def _changed(self) -> None:
        assert self.service is not None
        self._version += 1
        self.service["metadata"]["resourceVersion"] = str(self._version)
        self.reconcile()

    def _reconcile_serverless(self, service: dict[str, Any]) -> None:
        percent = service["spec"]["predictor"].get("canaryTrafficPercent")
        status = service["status"]["components"]["predictor"]
        newest, rolled_out = status["latestCreatedRevision"], status["latestRolledoutRevision"]
        if not self.ready:
            status["latestReadyRevision"] = rolled_out
            status["traffic"] = [{"revisionName": rolled_out, "percent": 100}]
            return
        status["latestReadyRevision"] = newest
        if percent is None:
            if newest != rolled_out:
                status |= {"previousRolledoutRevision": rolled_out, "latestRolledoutRevision": newest}
            status["traffic"] = [{"latestRevision": True, "revisionName": newest, "percent": 100}]
            return
        rest = status["previousRolledoutRevision"] if newest == rolled_out else rolled_out
        status["traffic"] = [
            {"latestRevision": True, "revisionName": newest, "percent": percent},
            {"revisionName": rest, "percent": 100 - percent},
        ]

    def _reconcile_raw(self, service: dict[str, Any]) -> None:
        service["status"]["canaryStatuses"] = [
            {"name": one["predictor"]["name"], "ready": self.ready, "trafficPercent": one["trafficPercent"]}
            for one in service["spec"].get("canary") or ()
        ]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length", "0"))
        body = json.loads(handler.rfile.read(length) or b"{}")
        with self.lock:
            status, found = self._found(handler, body)
            content = json.dumps(found).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _found(self, handler: BaseHTTPRequestHandler, patch: dict[str, Any]) -> tuple[int, Any]:
        if self.fail is not None:
            return self.fail, {"kind": "Status", "message": "as the test has it"}
        if handler.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"kind": "Status", "message": "Unauthorized"}
        if handler.path.partition("?")[0] != PATH or self.service is None:
            return 404, {"kind": "Status", "message": "not found"}
        if handler.command == "GET":
            return 200, self.service
        if handler.headers.get("content-type") != "application/merge-patch+json":
            return 415, {"kind": "Status", "message": "unsupported media type"}
        if self.conflicts:
            self.conflicts -= 1
            self._changed()
        if patch["metadata"]["resourceVersion"] != self.service["metadata"]["resourceVersion"]:
            return 409, {"kind": "Status", "reason": "Conflict", "message": "the object has been modified"}
        self.patches.append(patch["spec"])
        self.service = merged(self.service, {"spec": patch["spec"]})
        self._changed()
        return 200, self.service


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    found = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


def _serverless() -> dict[str, Any]:
    """A new revision was applied at 0 %."""
    status = {"latestCreatedRevision": CANARY, "latestRolledoutRevision": STABLE, "latestReadyRevision": STABLE}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "digits", "namespace": "ml", "resourceVersion": "1"},
        "spec": {"predictor": {"canaryTrafficPercent": 0, "model": {"modelFormat": {"name": "onnx"}}}},
        "status": {"components": {"predictor": status}},
    }


def _raw() -> dict[str, Any]:
    """A canary entry was applied at 0 %."""
    model = {"modelFormat": {"name": "onnx"}}
    entry = {"trafficPercent": 0, "predictor": {"name": "v2", "model": model | {"storageUri": "s3://models/2"}}}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "digits", "namespace": "ml", "resourceVersion": "1"},
        "spec": {
            "predictor": {"model": model | {"storageUri": "s3://models/1"}, "minReplicas": 4},
            "canary": [entry],
        },
        "status": {},
    }
