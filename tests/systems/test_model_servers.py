"""Good and bad canaries behind real model servers, judged by a configuration of routes, backends and a plan alone.

The bad ones are the commonest broken deployments: a model under another name (404), labels that have collapsed into
one, streams that break off with an error after a 200.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sysconfig
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port
from tests.support.systems import Case, Judged, copied, core_python, environment, judged, server

pytestmark = pytest.mark.anyio


def promoted(found: Judged) -> None:
    """A healthy canary: promoted, and no user has seen a failure."""
    assert (found.phase, found.failures) == ("PROMOTED", []), found


def rolled_back(found: Judged, *causes: str) -> None:
    """A bad one: rolled back, by one of these metrics."""
    assert found.phase == "ROLLED_BACK" and set(found.causes) & set(causes), found


@contextlib.asynccontextmanager
async def mlserver(directory: Path, name: str) -> AsyncIterator[str]:
    """MLServer with one model of that name; its URL."""
    http, grpc, metrics = free_port(), free_port(), free_port()
    copied(directory / "model", "mlserver_model.py")
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    (directory / "settings.json").write_text(json.dumps({**ports, "host": "127.0.0.1", "parallel_workers": 0}))
    model = {"name": name, "implementation": "mlserver_model.Digits"}
    (directory / "model" / "model-settings.json").write_text(json.dumps(model))
    url = f"http://127.0.0.1:{http}"
    command = [str(environment("mlserver") / "bin" / "mlserver"), "start", "."]
    environ = {"PYTHONPATH": str(directory / "model")}
    async with server(command, f"{url}/v2/health/ready", directory, environ):
        yield url


async def test_mlserver_with_a_wrong_model_name_is_rolled_back(tmp_path: Path) -> None:
    def body(number: int) -> dict[str, Any]:
        data = [float(number % 7), float(number % 3)]
        return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": data}]}

    async with (
        mlserver(tmp_path / "a", "digits") as stable,
        mlserver(tmp_path / "b", "digits") as good,
        mlserver(tmp_path / "c", "digits-v2") as bad,
    ):
        path, probe = "/v2/models/digits/infer", "/v2/health/ready"
        cases = {name: Case(stable, url, path, body, probe) for name, url in (("good", good), ("bad", bad))}
        found = await judged(tmp_path, cases)
    promoted(found["good"])
    rolled_back(found["bad"], "not_found")


@contextlib.asynccontextmanager
async def mlflow(directory: Path, model: Path, environ: dict[str, str]) -> AsyncIterator[str]:
    """MLflow's scoring server; its URL."""
    copied(directory)
    binaries = environment("mlflow") / "bin"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(binaries / "mlflow"), "models", "serve", "--model-uri", str(model), "--env-manager", "local"]
    command += ["--port", str(port), "--workers", "1"]
    path = {"PATH": f"{binaries}:/usr/local/bin:/usr/bin:/bin", "MLFLOW_DISABLE_TELEMETRY": "true"}
    async with server(command, f"{url}/ping", directory, path | environ):
        yield url


async def test_mlflow_scoring_is_judged_in_all_its_forms(tmp_path: Path) -> None:
    model = tmp_path / "model"
    script = copied(tmp_path / "make", "mlflow_model.py") / "mlflow_model.py"
    saving = await asyncio.create_subprocess_exec(
        str(environment("mlflow") / "bin" / "python"), str(script), str(model), env={"MLFLOW_DISABLE_TELEMETRY": "true"}
    )
    assert await saving.wait() == 0

    def bodies(form: int) -> Callable[[int], dict[str, Any]]:
        return lambda number: {"inputs": [[form, number % 4]]}

    async with (
        mlflow(tmp_path / "a", model, {}) as stable,
        mlflow(tmp_path / "b", model, {}) as good,
        mlflow(tmp_path / "c", model, {"COLLAPSED": "1"}) as bad,
    ):
        cases = {
            f"{form}-{name}": Case(stable, url, "/invocations", bodies(number), "/ping")
            for number, form in enumerate(("list", "dict", "records"))
            for name, url in (("good", good), ("bad", bad))
        }
        found = await judged(tmp_path, cases)
    for form in ("list", "dict", "records"):
        promoted(found[f"{form}-good"])
        assert found[f"{form}-bad"].phase == "ROLLED_BACK", found[f"{form}-bad"]


@contextlib.asynccontextmanager
async def triton(directory: Path, environ: dict[str, str]) -> AsyncIterator[str]:
    """Triton with a model of four classes; its URL."""
    packages = next((environment("triton") / "lib").glob("python3.*")) / "site-packages"
    server_files = packages / "pytriton" / "tritonserver"
    model = copied(directory / "models" / "animals" / "1", "triton_model.py")
    (model / "triton_model.py").rename(model / "model.py")
    (model.parent / "labels.txt").write_text("hen\nfox\ncow\ncat\n")
    (model.parent / "config.pbtxt").write_text(
        'name: "animals"\nbackend: "python"\nmax_batch_size: 8\n'
        'input [{ name: "x" data_type: TYPE_FP32 dims: [2] }]\n'
        'output [{ name: "probabilities" data_type: TYPE_FP32 dims: [4] label_filename: "labels.txt" }]\n'
        "instance_group [{ kind: KIND_CPU count: 1 }]\n"
    )
    backend = directory / "backends" / "python"
    copying = await asyncio.create_subprocess_exec("cp", "-r", str(server_files / "backends"), str(directory))
    assert await copying.wait() == 0
    stub = server_files / "python_backend_stubs" / "3.11" / "triton_python_backend_stub"
    (backend / stub.name).write_bytes(stub.read_bytes())
    (backend / stub.name).chmod(0o755)
    base = sysconfig.get_config_var("installed_base")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(server_files / "bin" / "tritonserver"), "--model-repository", "models", "--backend-directory"]
    command += ["backends", "--http-address", "127.0.0.1", "--http-port", str(port)]
    command += ["--allow-grpc", "false", "--allow-metrics", "false"]
    libraries = f"{packages.parents[2] / 'lib'}:{packages / 'nvidia_pytriton.libs'}:{base}/lib"
    own = {"LD_LIBRARY_PATH": libraries, "PYTHONHOME": base, "SITE_PACKAGES": str(packages)}
    async with server(command, f"{url}/v2/health/ready", directory, own | environ):
        yield url


async def test_tritons_classification_strings_are_read(tmp_path: Path) -> None:
    """`0.972000:1:fox`: nearly all of them differ, and it is the label that is compared."""

    def body(number: int) -> dict[str, Any]:
        data = [float(number % 4), (number % 97) / 97]
        wanted = {"name": "probabilities", "parameters": {"classification": 1}}
        return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": data}], "outputs": [wanted]}

    async with (
        triton(tmp_path / "a", {}) as stable,
        triton(tmp_path / "b", {}) as good,
        triton(tmp_path / "c", {"COLLAPSED": "1"}) as bad,
    ):
        path, probe = "/v2/models/animals/infer", "/v2/health/ready"
        cases = {name: Case(stable, url, path, body, probe) for name, url in (("good", good), ("bad", bad))}
        found = await judged(tmp_path, cases)
    promoted(found["good"])
    assert found["bad"].phase == "ROLLED_BACK", found["bad"]


@contextlib.asynccontextmanager
async def tokens(directory: Path, share: float) -> AsyncIterator[str]:
    """A server that streams as vLLM does, and of whose streams that share fails in the middle; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    script = copied(directory, "token_server.py") / "token_server.py"
    async with server([core_python(), str(script), str(port), str(share)], f"{url}/health", directory):
        yield url


async def test_streams_that_fail_in_the_middle_are_rolled_back(tmp_path: Path) -> None:
    def body(number: int) -> dict[str, Any]:
        return {"model": "m", "stream": True, "messages": [{"role": "user", "content": f"hello {number}"}]}

    async with (
        tokens(tmp_path / "a", 0.0) as stable,
        tokens(tmp_path / "b", 0.0) as good,
        tokens(tmp_path / "c", 0.3) as bad,
    ):
        path, probe = "/v1/chat/completions", "/health"
        cases = {name: Case(stable, url, path, body, probe) for name, url in (("good", good), ("bad", bad))}
        found = await judged(tmp_path, cases)
    promoted(found["good"])
    rolled_back(found["bad"], "model_errors")
