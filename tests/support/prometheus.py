"""A real Prometheus that scrapes what a test names."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.systems import server


@asynccontextmanager
async def prometheus(directory: Path, *targets: str) -> AsyncIterator[str]:
    """One that scrapes these addresses each second; its URL."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.fail("prometheus is not installed; it is in Debian's package of that name")
    static = [{"targets": [target]} for target in targets]
    jobs = [{"job_name": "pods", "scrape_interval": "1s", "static_configs": static}]
    # JSON is YAML.
    (directory / "prometheus.yml").write_text(json.dumps({"scrape_configs": jobs}))
    url = f"http://127.0.0.1:{free_port()}"
    command = [program, "--config.file=prometheus.yml", "--storage.tsdb.path=prometheus"]
    command += [f"--web.listen-address={url.removeprefix('http://')}", "--log.level=warn"]
    async with contextlib.AsyncExitStack() as held:
        await held.enter_async_context(server(command, f"{url}/-/ready", directory))
        yield url
