"""Who is let in and may do what: tokens by their hash, scopes, client certificates; and the trail that it leaves."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.admin.audit import REMEMBERED, AuditTrail
from gateway.admin.operations import OPERATIONS
from gateway.admin.principals import Keyring
from gateway.config.admin import AdminTlsConfig, ClientConfig, Scope
from gateway.config.errors import BadValue
from gateway.config.host_checks import Key, admin_tls, sha256_of
from gateway.control.alarms import Alarms
from gateway.control.events import EventLog
from gateway.control.journal.rows import AuditEntry
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.journal.writer import JournalWriter
from gateway.core.errors import JournalError
from gateway.runtime.clock import SystemClock
from tests.support.control import ManualClock
from tests.support.worker import EVENTUALLY_S

TOKENS = {scope: f"the-token-that-may-{scope}" for scope in Scope}
KEYS = tuple(Key(f"{scope}er", (scope,), sha256_of(TOKENS[scope])) for scope in Scope)
RANK = list(Scope)


@pytest.fixture(scope="module")
def scoped(double: Any) -> Iterator[Any]:
    with double.Served(keys=KEYS) as served:
        yield served


def bearer(scope: Scope, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[scope]}"} | more


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if not o.open], ids=lambda o: f"{o.method} {o.path}")
def test_every_operation_asks_for_its_scope(scoped: Any, operation: Any) -> None:
    path = operation.path.format(route="plain", rollout_id="none", backend="none")
    with httpx.Client(base_url=scoped.url, verify=False) as client:
        for scope in Scope:
            # Only the head: an event stream has no end.
            with client.stream(operation.method, path, headers=bearer(scope)) as answer:
                refused = RANK.index(scope) < RANK.index(operation.scope)
                assert (answer.status_code == 403) == refused, answer.status_code
                assert answer.status_code != 401
                if refused:
                    challenge = answer.headers["www-authenticate"]
                    assert challenge.endswith(f'error="insufficient_scope", scope="{operation.scope}"')
        assert client.request(operation.method, path).status_code == 401


def test_reading_is_not_steering_and_steering_is_not_configuring() -> None:
    for operation in OPERATIONS:
        if operation.method == "GET":
            assert operation.scope is (
                Scope.ADMIN if operation.handler in ("list_audit", "download_backup") else Scope.READ
            )
        else:
            assert operation.scope in (Scope.OPERATE, Scope.ADMIN)


def test_the_journal_names_the_tokens_holder_and_whom_it_says_it_acts_for(scoped: Any) -> None:
    headers = bearer(Scope.OPERATE, **{"x-actor": "ada"})
    started = httpx.post(f"{scoped.url}/api/v1/routes/digits/rollouts", headers=headers).json()
    assert started["by"] == "ada via operateer"
    aborted = httpx.post(f"{scoped.url}/api/v1/rollouts/{started['id']}/abort", headers=bearer(Scope.OPERATE)).json()
    assert aborted["by"] == "operateer"


def test_every_key_is_compared_whatever_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(presented: bytes, key: bytes) -> bool:
        compared.append(key)
        return presented == key

    monkeypatch.setattr("hmac.compare_digest", compare)
    ring = Keyring(KEYS)
    assert ring._by_token(TOKENS[Scope.READ].encode()) is not None  # noqa: SLF001  # the time it takes cannot be seen from outside
    assert ring._by_token(b"wrong") is None  # noqa: SLF001  # as above
    assert compared == [bytes.fromhex(key.sha256) for key in KEYS] * 2


# certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server's certificate for 127.0.0.1, and clients' with the common names ci and eve."""
    directory = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test ca")
    for name in ("server", "ci", "eve"):
        extra = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")
        issued = (*new, "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl(*issued, "-subj", f"/CN={name}", *extra)
    return directory


def test_a_client_certificate_says_who_asks(double: Any, certificates: Path) -> None:
    files = {"cert_file": "server.pem", "key_file": "server.key", "client_ca_file": "ca.pem"}
    tls = admin_tls(AdminTlsConfig.model_validate(files, context=certificates))
    clients = (ClientConfig(name="ci", scopes=[Scope.OPERATE]),)

    def context(name: str) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        if name:
            made.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        return made

    with double.Served(keys=KEYS[:1], clients=clients, tls=tls) as served:
        with httpx.Client(base_url=served.url, verify=context("ci")) as client:
            started = client.post("/api/v1/routes/digits/rollouts")
            assert (started.status_code, started.json()["by"]) == (201, "ci")
            assert client.delete("/api/v1/config").status_code == 403
            assert client.get("/api/v1/routes", headers={"authorization": "Bearer wrong"}).status_code == 401
        with httpx.Client(base_url=served.url, verify=context("eve")) as client:
            assert client.get("/api/v1/routes").status_code == 401
            assert client.get("/api/v1/routes", headers=bearer(Scope.READ)).status_code == 200
        with httpx.Client(base_url=served.url, verify=context("")) as client, pytest.raises(httpx.TransportError):
            client.get("/healthz")
        with pytest.raises(httpx.TransportError):
            httpx.get(served.url.replace("https", "http") + "/healthz")


def test_certificates_that_cannot_be_used_are_named(certificates: Path) -> None:
    def tls(key: str, authority: str | None) -> AdminTlsConfig:
        return AdminTlsConfig.model_validate(
            {"cert_file": "server.pem", "key_file": key, "client_ca_file": authority}, context=certificates
        )

    with pytest.raises(BadValue, match=r"cannot use .*server\.pem with .*ci\.key"):
        admin_tls(tls("ci.key", None))
    with pytest.raises(BadValue, match=r"cannot use .*nothing\.pem"):
        admin_tls(tls("server.key", "nothing.pem"))


# the audit trail


def entry(**changes: Any) -> AuditEntry:
    known: dict[str, Any] = {
        "principal": "ci",
        "actor": "ci",
        "address": "::1",
        "method": "PUT",
        "path": "/x",
        "status": 200,
    }
    return AuditEntry(0, "", **known | changes)


def test_the_trail_shows_who_did_what_and_who_was_refused(scoped: Any) -> None:
    with httpx.Client(base_url=scoped.url) as client:
        client.delete("/api/v1/routes/none", headers=bearer(Scope.ADMIN))
        client.put("/api/v1/routes/plain/weight", json={"canary_percent": 101}, headers=bearer(Scope.OPERATE))
        client.delete("/api/v1/routes/plain", headers=bearer(Scope.OPERATE))
        client.get("/api/v1/audit", headers=bearer(Scope.READ))
        client.get("/api/v1/routes", headers={"authorization": "Bearer guess", "x-actor": "mallory"})
        found = client.get("/api/v1/audit", params={"limit": 4}, headers=bearer(Scope.ADMIN))
        lines = [(e["principal"], e["method"], e["status"], e["problem"]) for e in found.json()["entries"]]
        assert lines == [
            ("", "GET", 401, "unauthorized"),
            ("reader", "GET", 403, "forbidden"),
            ("operateer", "DELETE", 403, "forbidden"),
            ("operateer", "PUT", 422, "invalid-value"),
        ]
        assert found.json()["entries"][0]["actor"] == "mallory"
        assert TOKENS[Scope.OPERATE] not in found.text and "guess" not in found.text
        following = found.headers["link"].partition(">")[0].removeprefix("<")
        older = client.get(following, headers=bearer(Scope.ADMIN)).json()["entries"]
        assert older[0]["id"] == found.json()["entries"][-1]["id"] - 1


def filled(path: Path, count: int) -> list[AuditEntry]:
    """A trail with so many more entries, all of them on the disk; what it shows."""

    async def fill(store: SqliteStore) -> list[AuditEntry]:
        clock = SystemClock()
        writer = JournalWriter(store, clock, Alarms(EventLog(clock)))
        trail = AuditTrail(clock, writer, store.audit.page(REMEMBERED))
        for number in range(count):
            trail.add(entry(path=f"/{number}", said="half of a pair: \ud800"))
        async with asyncio.timeout(EVENTUALLY_S):
            while trail.pending:
                await asyncio.sleep(0.01)
        assert trail.dropped == 0
        return await trail.page(10_000, None)

    with SqliteStore.open(path) as store:
        return asyncio.run(fill(store))


def test_the_trail_outlives_a_restart_and_goes_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    assert [e.id for e in filled(path, 3)] == [3, 2, 1]
    again = filled(path, 1)
    assert [(e.id, e.path) for e in again] == [(4, "/0"), (3, "/2"), (2, "/1"), (1, "/0")]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_trail_is_bounded_and_shows_what_is_older_than_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.admin.audit.KEPT", 50)
    monkeypatch.setattr("gateway.admin.audit.REMEMBERED", 10)
    path = tmp_path / "state.sqlite3"
    shown = filled(path, 100)
    assert [e.id for e in shown] == list(range(100, 50, -1))
    with SqliteStore.open(path) as store:
        assert store.audit.page(1000) == shown


def test_entries_that_cannot_be_stored_stay_in_memory_and_are_counted(tmp_path: Path) -> None:
    async def fill() -> None:
        clock = SystemClock()
        writer = JournalWriter(JournalError("no such disk"), clock, Alarms(EventLog(clock)))
        trail = AuditTrail(clock, writer)
        for _ in range(5):
            trail.add(entry())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (trail.pending, trail.dropped, len(await trail.page(10, None))) == (0, 5, 5)

    asyncio.run(fill())


def page(trail: AuditTrail, limit: int) -> list[AuditEntry]:
    return asyncio.run(trail.page(limit, None))


def test_strangers_cannot_write_the_trail_full() -> None:
    clock = ManualClock()
    trail = AuditTrail(clock)
    for _ in range(1000):
        trail.add(entry(status=401, problem="unauthorized"), stranger=True)
    assert len(page(trail, 10_000)) == 60
    trail.add(entry())
    assert page(trail, 1)[0].suppressed == 940
    clock.now_s += 61
    trail.add(entry(status=401), stranger=True)
    assert page(trail, 1)[0].status == 401
