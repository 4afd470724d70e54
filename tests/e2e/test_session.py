"""The session of docs/session.md: an operator with the command line alone, from the installed package to the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from pathlib import Path
from typing import Self

import pytest

from tests.support.backend import Backend, answer
from tests.support.gateway import Traffic

pytestmark = pytest.mark.anyio
DOCUMENT = (Path(__file__).parents[2] / "docs" / "session.md").read_text(encoding="utf-8")
# How long one command may take on a machine that has other things to do.
PATIENCE_S = 150
_END = "=== "


def configuration() -> str:
    """The file of the document: its first indented block."""
    block = re.search(r"(?:^ {4}\S.*\n(?:^ {4}.*\n|^\n(?= {4}))*)", DOCUMENT, re.MULTILINE)
    assert block is not None
    return re.sub(r"^ {4}", "", block.group(), flags=re.MULTILINE)


def session() -> list[tuple[str, str]]:
    """The commands of the document with what each says."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"(?:^ {4}\$ .*\n(?: {4}.*\n)*)", DOCUMENT, re.MULTILINE):
        for part in re.split(r"^ {4}\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, re.sub(r"^ {4}", "", output, flags=re.MULTILINE)))
    return found


def matches(wanted: str, said: str) -> bool:
    """Whether what was said is what is wanted, in which ``...`` is anything; blanks count as one, ends not at all."""
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in wanted.split("..."))
    return re.fullmatch(re.sub(r"(\\ )", r"\\s*", pattern), " ".join(said.split()), re.DOTALL) is not None


class Shell:
    """One bash that lives through the whole session."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self._directory = directory
        self._environ = environ

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            "bash",
            "--norc",
            cwd=self._directory,
            env=self._environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ProcessLookupError):  # what a session that failed has left behind
            os.killpg(self._process.pid, signal.SIGTERM)
        await asyncio.wait_for(self._process.stdout.read(), 60)
        await self._process.wait()

    async def run(self, command: str) -> tuple[int, str]:
        """One command line: its exit status, and all that it said."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{{ {command}\n}} < /dev/null\necho '{_END}'$?\n".encode())
        said = ""
        async with asyncio.timeout(PATIENCE_S):
            while not (end := re.search(rf"^{_END}(\d+)\n", said, re.MULTILINE)):
                piece = await self._process.stdout.readline()
                assert piece, f"the shell has ended: {said}"
                said += piece.decode()
        return int(end[1]), said[: end.start()]


def test_the_document_is_read_as_it_is_meant() -> None:
    assert configuration().startswith("listen: ") and "bake_s" in configuration()
    commands = [command for command, _ in session()]
    assert len(commands) > 25 and commands[0] == "gateway --version"
    assert matches("a ... c\n", "a   b\nc") and matches("x", "x\n") and not matches("a ... c", "a b c d")


async def test_the_session_goes_as_the_document_says(tmp_path: Path) -> None:
    async with Backend() as v1, Backend() as v2, Backend(answer(500)) as v3:
        named = {
            "127.0.0.1:8001": f"127.0.0.1:{v1.port}",
            "127.0.0.1:8002": f"127.0.0.1:{v2.port}",
            "127.0.0.1:8003": f"127.0.0.1:{v3.port}",
            "127.0.0.1:8080": "127.0.0.1:0",
            "/run/canary-gateway/admin.sock": f"{tmp_path}/admin.sock",
        }

        def here(text: str) -> str:
            for theirs, ours in named.items():
                text = text.replace(theirs, ours)
            return text

        (tmp_path / "gateway.yaml").write_text(here(configuration()))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        # The command as it was installed; wide enough for its tables.
        environ = kept | {
            "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
            "COLUMNS": "200",
            "LC_ALL": "C.UTF-8",
        }
        log = tmp_path / "gateway.log"
        traffic: Traffic | None = None
        try:
            async with Shell(tmp_path, environ) as shell:
                for command, wanted in session():
                    if "--retry" in command:
                        v3.script = answer()  # its disk is emptied
                    status, said = await shell.run(here(command))
                    print(f"$ {command}\n{said}")  # noqa: T201  # shown when it fails, and with -rP
                    assert status == 0, command
                    assert matches(here(wanted), said), f"$ {command}\n--- wanted\n{here(wanted)}--- said\n{said}"
                    if "/readyz" in command:
                        url = re.search(r"serving on (\S+),", log.read_text())
                        assert url is not None
                        traffic = await Traffic(f"{url[1]}/v2/models/digits", 150).__aenter__()
                    if command.startswith("kill $serving"):
                        assert "Traceback" not in log.read_text(), log.read_text()
        finally:
            if traffic is not None:
                await traffic.__aexit__()
        assert traffic is not None and traffic.variants["canary"] > 0
