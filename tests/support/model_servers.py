"""Real model servers, each in an environment of its own, and the stand-ins for those that cannot be installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sysconfig
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.ports import free_port
from tests.support.systems import copied, core_python, environment, server


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


@contextlib.asynccontextmanager
async def tokens(directory: Path, share: float) -> AsyncIterator[str]:
    """A server that streams as vLLM does, and of whose streams that share fails in the middle; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    script = copied(directory, "token_server.py") / "token_server.py"
    async with server([core_python(), str(script), str(port), str(share)], f"{url}/health", directory):
        yield url


async def mlflow_model(folder: Path) -> Path:
    """A model in MLflow's format, made there."""
    script = copied(folder, "mlflow_model.py") / "mlflow_model.py"
    python = str(environment("mlflow") / "bin" / "python")
    environ = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    saving = await asyncio.create_subprocess_exec(python, str(script), str(folder / "model"), env=environ)
    assert await saving.wait() == 0
    return folder / "model"


@contextlib.asynccontextmanager
async def kserve(directory: Path, environ: dict[str, str] | None = None) -> AsyncIterator[str]:
    """KServe's model server; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    copied(directory, "kserve_model.py")
    command = [str(environment("kserve") / "bin" / "python"), "kserve_model.py", str(port)]
    async with server(command, f"{url}/v2/models/animals/ready", directory, environ):
        yield url


@contextlib.asynccontextmanager
async def bentoml(directory: Path, environ: dict[str, str] | None = None) -> AsyncIterator[str]:
    """BentoML; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    copied(directory, "bentoml_service.py")
    binaries = environment("bentoml") / "bin"
    command = [
        str(binaries / "bentoml"),
        "serve",
        "bentoml_service:Animals",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    own = {"PATH": f"{binaries}:/usr/bin:/bin", "BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": str(directory)}
    async with server(command, f"{url}/readyz", directory, own | (environ or {})):
        yield url


@contextlib.asynccontextmanager
async def ray_serve(directory: Path) -> AsyncIterator[str]:
    """Ray Serve with one application; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    copied(directory, "ray_service.py")
    command = [str(environment("ray") / "bin" / "python"), "ray_service.py", str(port)]
    # Its sockets are files with long names, and the system limits those.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environ = {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        async with server(command, f"{url}/animals", directory, environ):
            yield url


@contextlib.asynccontextmanager
async def fastapi(directory: Path) -> AsyncIterator[str]:
    """An application on FastAPI and uvicorn; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    copied(directory, "fastapi_app.py")
    command = [str(environment("fastapi") / "bin" / "uvicorn"), "fastapi_app:app", "--port", str(port)]
    async with server(command, f"{url}/healthz", directory):
        yield url


@contextlib.asynccontextmanager
async def litellm(directory: Path, key: str) -> AsyncIterator[str]:
    """LiteLLM's proxy with a model that has one answer; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    copied(directory)
    model = {"model": "openai/chat", "api_key": "none", "mock_response": "a hen, a fox, a cow and a cat"}
    settings = {
        "model_list": [{"model_name": "chat", "litellm_params": model}],
        "general_settings": {"master_key": key},
    }
    (directory / "config.yaml").write_text(json.dumps(settings))
    binaries = environment("litellm") / "bin"
    command = [str(binaries / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    environ = {
        "PATH": f"{binaries}:/usr/bin:/bin",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    async with server(command, f"{url}/health/readiness", directory, environ):
        yield url


@contextlib.asynccontextmanager
async def stand_in(directory: Path, name: str, ready: str) -> AsyncIterator[str]:
    """The documented paths of a server that cannot be had; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    script = copied(directory, "documented_server.py") / "documented_server.py"
    async with server([core_python(), str(script), name, str(port)], f"{url}{ready}", directory):
        yield url
