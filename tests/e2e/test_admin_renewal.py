"""Certificates and tokens of the admin listener are read again: nobody is cut off, and bad files change nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.support.certificates import Authority, Pair
from tests.support.gateway import RunningGateway, config
from tests.support.worker import EVENTUALLY_S, eventually

pytestmark = pytest.mark.anyio
OLD, NEW = "the-token-before-its-end", "the-token-of-the-next-year"


def serve(pair: Pair, directory: Path) -> None:
    """Put a certificate and its key where the gateway reads them, as a renewal does: one after the other."""
    shutil.copy(pair.cert, directory / "admin.pem")
    shutil.copy(pair.key, directory / "admin.key")


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(EVENTUALLY_S):
        while not await condition():
            await asyncio.sleep(0.05)
    assert await condition(), what


class Admin:
    """Clients of one gateway's admin listener, by the CA that they believe."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self, authority: Authority, token: str = OLD) -> httpx.AsyncClient:
        context = ssl.create_default_context(cafile=str(authority.pair.cert))
        headers = {"authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=self.url, verify=context, headers=headers, timeout=EVENTUALLY_S)

    async def answers(self, authority: Authority, token: str = OLD) -> int:
        """The status on a new connection; 0 when the handshake fails."""
        async with self.client(authority, token) as client:
            try:
                return (await client.get("/api/v1/routes")).status_code
            except httpx.ConnectError:
                return 0


class Tls(RunningGateway):
    """A gateway whose admin listener has a certificate of this authority."""

    authority: Authority

    async def ready(self) -> None:
        """Wait with a client that believes the authority."""
        await self.admin.aclose()
        self.admin = Admin(self.admin_url).client(self.authority)
        await super().ready()


async def test_renewed_files_serve_the_next_handshake_and_the_next_request(tmp_path: Path) -> None:
    before, after = Authority(tmp_path, "before"), Authority(tmp_path, "after")
    serve(before.sign("127.0.0.1", file="first"), tmp_path)
    (tmp_path / "token").write_text(OLD)
    settings = config("http://127.0.0.1:9", None)
    settings["admin"] |= {"token_file": "token", "tls": {"cert_file": "admin.pem", "key_file": "admin.key"}}
    running = Tls(tmp_path, settings)
    running.authority = before
    async with running as gateway:
        admin = Admin(gateway.admin_url)
        reported: dict[str, list[str]] = {}
        listening = asyncio.create_task(listen(admin.client(before), reported))
        await until(lambda: _is(admin.answers(before), 200), "it serves")
        assert await admin.answers(after) == 0

        # A certificate whose key is still to come changes nothing, and is an alarm.
        second = after.sign("127.0.0.1", file="second")
        shutil.copy(second.cert, tmp_path / "admin.pem")
        await eventually(lambda: "admin certificate" in reported, "an alarm for what does not fit together")
        assert "the previous ones stay in use: cannot use" in reported["admin certificate"][0]
        assert (await admin.answers(before), await admin.answers(after)) == (200, 0)
        async with admin.client(before) as client:
            assert (await client.get("/readyz")).json()["ready"] is True, "traffic does not suffer from it"

        shutil.copy(second.key, tmp_path / "admin.key")
        await until(lambda: _is(admin.answers(after), 200), "the new certificate is served")
        assert await admin.answers(before) == 0

        # Tokens: a bad file leaves the old one in force, a good one ends it.
        (tmp_path / "token").write_text("short")
        await eventually(lambda: any("has 5 characters" in why for why in reported.get("admin tokens", ())), "an alarm")
        assert await admin.answers(after, OLD) == 200
        (tmp_path / "token").write_text(NEW)
        await until(lambda: _is(admin.answers(after, NEW), 200), "the new token lets in")
        assert await admin.answers(after, OLD) == 401

        # Who has listened since the beginning was not cut off, and has got the end of the alarm.
        await eventually(
            lambda: all(reported.get(a, [""])[-1] == "over" for a in ("admin certificate", "admin tokens")), ""
        )
        assert not listening.done()
        listening.cancel()
        async with admin.client(after, NEW) as client:
            assert (await client.get("/api/v1/alarms")).json()["alarms"] == []
        assert OLD.encode() not in gateway.log and NEW.encode() not in gateway.log


async def listen(client: httpx.AsyncClient, reported: dict[str, list[str]]) -> None:
    """Write down for each alarm what is said of it, over one connection."""
    async with client, client.stream("GET", "/api/v1/events", timeout=None) as stream:
        assert stream.status_code == 200
        async for line in stream.aiter_lines():
            event = json.loads(line[5:]) if line.startswith("data:") else {}
            if event.get("kind") == "alarm":
                data = event["data"]
                reported.setdefault(data["what"], []).append(data["reason"] if data["standing"] else "over")


async def _is(answer: Awaitable[int], wanted: int) -> bool:
    return await answer == wanted
