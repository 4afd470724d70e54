"""A registry over a real socket that speaks as much of MLflow's REST as the gateway uses, and fails when it is told to.

The real server is asked in tests/pipelines; here are the states that it cannot be brought into: an answer that is no
JSON, one that never comes, a crash between any two calls.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

ONNX = b"an onnx file"
_INPUTS = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 64]}, "name": "pixels"}]'


def mlmodel(flavor: str = "onnx", data: str = "model.onnx", inputs: str = _INPUTS) -> bytes:
    return f"flavors:\n  {flavor}:\n    data: {data}\nsignature:\n  inputs: '{inputs}'\n".encode()


class RegistryServer:
    """Versions by their number: tags, and files. ``fail`` is the answer to all calls while it is set."""

    def __init__(self) -> None:
        self.aliases: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.fail: tuple[int, bytes] | None = None
        self.calls = 0
        # Calls after this many are answered 500.
        self.calls_max = 1 << 30
        self.size_shown: int | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            do_POST = do_DELETE = do_GET  # noqa: N815  # http.server's own names

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, number: str, files: dict[str, bytes] | None = None, **tags: str) -> None:
        """Register a version."""
        self.files[number] = {"MLmodel": mlmodel(), "model.onnx": ONNX} if files is None else files
        self.tags[number] = {key.replace("_", "."): value for key, value in tags.items()}

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length", "0"))
        body = json.loads(handler.rfile.read(length) or b"{}")
        url = urlsplit(handler.path)
        asked = body | {key: values[0] for key, values in parse_qs(url.query).items()}
        self.calls += 1
        if self.fail is not None or self.calls > self.calls_max:
            status, content = self.fail or (500, b"<html>no</html>")
        else:
            status, content = self._found(handler.command, url.path, asked)
        handler.send_response(status)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _found(self, method: str, path: str, asked: dict[str, str]) -> tuple[int, bytes]:
        name = path.rpartition("/mlflow/")[2]
        absent = 404, json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}).encode()
        if path.startswith("/api/2.0/mlflow-artifacts/artifacts/"):
            number, _, file = path.removeprefix("/api/2.0/mlflow-artifacts/artifacts/").partition("/")
            return (200, self.files[number][file]) if file in self.files.get(number, {}) else absent
        if path == "/api/2.0/mlflow-artifacts/artifacts":
            sizes = {file: len(content) for file, content in self.files[asked["path"]].items()}
            found = [
                {"path": file, "is_dir": False, "file_size": self.size_shown or size} for file, size in sizes.items()
            ]
            return 200, json.dumps({"files": found}).encode()
        if name == "registered-models/alias":
            return self._alias(method, asked) or absent
        number = asked["version"]
        if number not in self.tags:
            return absent
        if name == "model-versions/set-tag":
            self.tags[number][asked["key"]] = asked["value"]
        if name == "model-versions/get-download-uri":
            return 200, json.dumps({"artifact_uri": f"mlflow-artifacts:/{number}"}).encode()
        return 200, self._version(number)

    def _alias(self, method: str, asked: dict[str, str]) -> tuple[int, bytes] | None:
        alias = asked["alias"]
        if method == "POST":
            if asked["version"] not in self.tags:
                return None
            self.aliases[alias] = asked["version"]
        elif method == "DELETE":
            self.aliases.pop(alias, None)
            return 200, b"{}"
        return (200, self._version(self.aliases[alias])) if alias in self.aliases else None

    def _version(self, number: str) -> bytes:
        tags = [{"key": key, "value": value} for key, value in self.tags[number].items()]
        return json.dumps({"model_version": {"version": number, "tags": tags}}).encode()
