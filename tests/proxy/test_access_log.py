"""The access log: what a line says, that every request has one, and that no request ever waits for it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import select
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.traffic.table import Rescue, Route, Sticky, Timeouts
from gateway.proxy.access_log import AccessLog, Line, Sink, path_text, text
from gateway.runtime.settings import AccessLogSettings, Limits
from tests.support.backend import Backend, answer, hang
from tests.support.rawbackend import RawBackend, Wire, reset_on_close
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ROUTE = Route("r", "/m", stable="a")
CANARY = Route("r", "/m", stable="a", canary="b", weight_bp=10_000, timeouts=Timeouts(connect_s=20, first_byte_s=20))
KEEP = b"GET /m HTTP/1.1\r\nHost: h\r\n\r\n"
GET = b"GET /m HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def read(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole: a reader may see half of what is being written."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


async def lines_of(path: Path, count: int) -> list[dict[str, Any]]:
    await eventually(lambda: len(read(path)) >= count, f"{count} lines")
    return read(path)


def settings(path: Path, **changes: Any) -> AccessLogSettings:
    return msgspec.structs.replace(AccessLogSettings(path=str(path)), **changes)


async def test_a_line_shows_what_became_of_a_request(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with (
        Backend(answer(body=b"answer")) as a,
        RunningWorker(table(ROUTE, a=a.port), access_log=settings(path)) as w,
    ):
        got = await w.raw(
            b"POST /m/x?secret=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nAuthorization: Bearer s3cret\r\n"
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nConnection: close\r\n\r\nbody"
        )
        (line,) = await lines_of(path, 1)
    expected = {
        "status": 200,
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/m/x",
        "route": "r",
        "assigned": "stable",
        "variant": "stable",
        "epoch": 1,
        "weight_percent": 0.0,
        "stable": "a",
        "canary": None,
        "backend": "a",
        "counted": "ok",
        "blame": "none",
        "fault": None,
        "in_bytes": 4,
        "out_bytes": len(got),
        "tries": 1,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "sampled": True,
    }
    assert {key: line[key] for key in expected} == expected
    assert not any(line[flag] for flag in ("rescued", "forced", "sticky", "tunnel"))
    assert 0 <= line["connect_ms"] <= line["first_byte_ms"] <= line["total_ms"] < 20_000
    assert 0 < line["counted_ms"] <= line["total_ms"]
    assert f"x-request-id: {line['request_id']}\r\n".encode() in got
    assert "s3cret" not in path.read_text() and "secret" not in path.read_text()
    assert line["ts"].endswith("Z") and len(line["ts"]) == 24


async def test_every_way_to_end_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with Backend(answer(body=b"saved")) as a, Backend(answer(500)) as b:
        async with RunningWorker(table(CANARY, a=a.port, b=b.port), access_log=settings(path)) as w:
            await w.raw(GET)  # rescued
            await w.raw(b"GET /other HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            await w.raw(b"garbage\r\n\r\n")
            b.script = hang
            _, writer = await asyncio.open_connection("127.0.0.1", w.port)
            b.seen.clear()
            writer.write(b"GET /m HTTP/1.1\r\nHost: h\r\n\r\nGET /m/waiting HTTP/1.1\r\nHost: h\r\n\r\n")
            await eventually(lambda: b.seen, "it arrives")
            reset_on_close(writer)
            writer.transport.abort()
            lines = await lines_of(path, 5)
    rescued, unrouted, refused, *aborted = lines
    assert (rescued["status"], rescued["rescued"], rescued["tries"]) == (200, True, 2)
    assert (rescued["assigned"], rescued["variant"], rescued["counted"]) == ("canary", "stable", "errors")
    assert (unrouted["status"], unrouted["fault"], unrouted["blame"]) == (404, "no_route", "downstream")
    assert unrouted["route"] is None and unrouted["counted"] is None
    assert (refused["status"], refused["fault"], refused["client"]) == (400, "bad_request", "127.0.0.1")
    assert [(line["status"], line["path"], line["blame"]) for line in aborted] == [
        (499, "/m", "downstream"),
        (499, "/m/waiting", "downstream"),
    ]
    assert [line["counted"] for line in aborted] == ["abandoned", None], "the second was never begun"


async def test_forced_sticky_cut_and_failed_requests_say_so(tmp_path: Path) -> None:
    async def torn(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart")
        await asyncio.sleep(0.1)

    path = tmp_path / "log"
    route = msgspec.structs.replace(
        CANARY,
        forced_header="x-v",
        sticky=Sticky(header="x-user"),
        rescue=Rescue(replayable=False, budget_percent=0, budget_burst=0),
    )
    async with Backend() as a, RawBackend(torn) as b:
        async with RunningWorker(table(route, a=a.port, b=b.port), access_log=settings(path)) as w:
            await w.raw(GET.replace(b"Host", b"X-V: stable\r\nHost"))
            await w.raw(GET)
            await b.__aexit__()
            await w.raw(GET)
            forced, cut, failed = await lines_of(path, 3)
    assert (forced["forced"], forced["counted"], forced["assigned"], forced["sticky"]) == (True, None, "stable", True)
    assert (cut["status"], cut["fault"], cut["blame"], cut["counted"]) == (200, "truncated", "upstream", "errors")
    assert (failed["status"], failed["fault"], failed["counted"]) == (502, "connect_failed", "errors")
    assert failed["connect_ms"] is None and failed["tries"] == 1


async def test_a_tunnel_has_one_line_at_its_end(tmp_path: Path) -> None:
    async def agree(wire: Wire) -> None:
        await wire.until(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        await wire.rest()

    path = tmp_path / "log"
    async with RawBackend(agree) as a, RunningWorker(table(ROUTE, a=a.port), access_log=settings(path)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(GET.replace(b"close", b"upgrade\r\nUpgrade: websocket"))
        await reader.readuntil(b"hello")
        assert read(path) == []
        writer.write(b"abc")
        await eventually(lambda: a.wires[0].got.endswith(b"abc"), "it passes")
        writer.close()
        (line,) = await lines_of(path, 1)
    assert (line["status"], line["tunnel"], line["counted"]) == (101, True, "other_success")
    assert line["in_bytes"] == 3 and line["out_bytes"] >= 5


async def test_a_query_is_logged_where_it_is_wanted_and_nothing_breaks_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), access_log=settings(path, query=True)) as w:
        target = b'/m/"%0a{}\\\xc3\xa9\xff' + b"x" * 3000 + b"?q=1"
        await w.raw(b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target)
        await w.raw(b"GET /m?q=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        lines = await lines_of(path, 2)
    assert lines[-1]["path"] == "/m?q=1"
    assert all(len(line["path"]) < 3000 for line in lines)
    assert all(len(line) < 4096 for line in path.read_bytes().splitlines())


async def test_a_sample_is_drawn_whatever_became_of_the_request(tmp_path: Path) -> None:
    path = tmp_path / "log"
    route = msgspec.structs.replace(CANARY, weight_bp=5_000, rescue=Rescue(replayable=False))
    async with Backend() as a, Backend(answer(500)) as b:
        log = settings(path, sample=0.25)
        async with RunningWorker(table(route, a=a.port, b=b.port), access_log=log) as w:
            failures = (await w.raw(KEEP * 399 + GET)).count(b"HTTP/1.1 500 ")
            await eventually(
                lambda: sum(line["status"] == 500 for line in read(path)) == failures, "every failure is there"
            )
    lines = read(path)
    assert sum(line["status"] == 500 for line in lines) == failures, "and none twice"
    sampled = [line for line in lines if line["sampled"]]
    assert all(line["sampled"] for line in lines if line["status"] == 200)
    # 400 coins of 0.25: 100 plus or minus six standard deviations.
    assert 48 <= len(sampled) <= 152, len(sampled)
    share = sum(line["status"] == 500 for line in sampled) / len(sampled)
    assert abs(share - failures / 400) < 0.36, "the sample does not prefer failures"


@pytest.mark.parametrize("reader", ["blocked", "gone"])
async def test_a_pipe_that_nobody_reads_costs_lines_and_no_request(tmp_path: Path, reader: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR if reader == "blocked" else os.O_RDONLY | os.O_NONBLOCK)
    log = settings(fifo, queue_bytes_max=16_384)
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), access_log=log) as w:
        assert (await w.raw(GET)).startswith(b"HTTP/1.1 200 ")
        if reader == "gone":
            await eventually(lambda: w.observer.merged().notes["log_lines"] == 1, "the log is open")
            await asyncio.sleep(0.1)
            os.close(held)
        assert (await w.raw(KEEP * 499 + GET)).count(b"HTTP/1.1 200 ") == 500
        await eventually(lambda: w.observer.merged().notes["log_dropped"] > 0, "dropped lines are counted")
        if reader == "blocked":
            w.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(w.process.wait(), 30) == 0, "nor does it hold up the end"
            os.close(held)


async def test_a_full_disk_costs_lines_and_no_request(tmp_path: Path) -> None:
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), access_log=settings(Path("/dev/full"))) as w:
        for _ in range(10):
            assert (await w.raw(GET)).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: w.observer.merged().notes["log_dropped"] == 10, "each lost line is counted")


async def test_a_directory_that_is_not_there_costs_lines_until_it_is(tmp_path: Path) -> None:
    path = tmp_path / "later" / "log"
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), access_log=settings(path)) as w:
        assert (await w.raw(GET)).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: w.observer.merged().notes["log_dropped"] == 1, "the lost line is counted")
        path.parent.mkdir()
        while not read(path):
            await w.raw(GET)


async def test_a_file_that_is_rotated_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with Backend() as a, RunningWorker(table(ROUTE, a=a.port), access_log=settings(path)) as w:
        await w.raw(GET)
        await lines_of(path, 1)
        path.rename(tmp_path / "log.1")
        sent = 1
        while not path.exists():
            await w.raw(GET)
            sent += 1
            await asyncio.sleep(0.02)
        await eventually(lambda: len(read(path)) + len(read(tmp_path / "log.1")) == sent, "no line is lost")
        assert oct(path.stat().st_mode & 0o777) == "0o640"


def test_writers_that_share_a_pipe_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    program = (
        "import sys\n"
        "from gateway.proxy.access_log import AccessLog, Line\n"
        "from gateway.runtime.settings import AccessLogSettings\n"
        "log = AccessLog('-', AccessLogSettings(path='-', queue_bytes_max=1 << 26))\n"
        "for i in range(3000):\n"
        "    log.write(Line('', 200, path=sys.argv[1] * 700), failed=False)\n"
        "    i % 50 or log.flush()\n"
        "log.flush(); log._sink.close(60); sys.exit(log.dropped > 0)\n"
    )
    got = bytearray()

    def take() -> None:
        while piece := os.read(read_fd, 1 << 16):
            got.extend(piece)

    reader = threading.Thread(target=take)
    reader.start()
    pids = [
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", program, x],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, write_fd, 1)],
        )
        for x in "ab"
    ]
    os.close(write_fd)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    reader.join()
    os.close(read_fd)
    paths = [json.loads(line)["path"] for line in got.splitlines()]
    assert sorted(paths) == ["a" * 700] * 3000 + ["b" * 700] * 3000


@given(st.binary(max_size=2000), st.binary(max_size=50))
def test_whatever_is_logged_is_one_line_of_json(path: bytes, method: bytes) -> None:
    line = Line("", 200, path=path_text(path), method=text(method))
    data = msgspec.json.encode(line)
    assert b"\n" not in data and b"\r" not in data
    assert json.loads(data)["path"] == path_text(path)


def test_a_queue_that_is_full_drops_and_counts(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"), AccessLogSettings(path="x", queue_bytes_max=4096))
    for _ in range(100):
        log.write(Line("", 200), failed=False)
    assert 0 < log.dropped < 100 and log.lines == 100
    dropped = log.dropped
    log.close()
    assert len((tmp_path / "log").read_bytes().splitlines()) == 100 - dropped


def test_a_log_behind_many_descriptors_waits_for_its_reader_like_any_other(tmp_path: Path) -> None:
    """select() knows no descriptor beyond 1023, and a worker has thousands of clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    reading, writing = os.pipe()
    try:
        high = fcntl.fcntl(writing, fcntl.F_DUPFD, 1500)
        os.set_blocking(high, False)
        sink = Sink(str(tmp_path / "log"))
        sink._path, sink._fd = None, high  # noqa: SLF001  # as if it had been opened when many were there already
        line = b"x" * 1000 + b"\n"
        for _ in range(100):  # more than the pipe holds
            sink.put([line], len(line))
        got = b""
        while len(got) < 100 * len(line):
            assert select.select([reading], [], [], 20)[0], "nothing more comes"
            got += os.read(reading, 65536)
        assert got == 100 * line
        sink.close(20)
        assert sink.failed == 0
        os.close(high)
    finally:
        os.close(reading)
        os.close(writing)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_limit_that_was_hit_is_named_with_client_and_route(tmp_path: Path) -> None:
    path = tmp_path / "log"
    limits = Limits(line_bytes_max=300, header_fields_max=10, head_bytes_max=1024, body_bytes_max=10)
    async with Backend() as a:
        async with RunningWorker(table(ROUTE, a=a.port), access_log=settings(path), limits=limits) as w:
            for fields in (b"X-Long: %b\r\n" % (b"x" * 400), b"A: 1\r\n" * 20, b"A: %b\r\n" % (b"y" * 250) * 5):
                await w.raw(b"GET /m HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n")
            await w.raw(b"GET /m%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"z" * 400))
            await w.raw(b"GET /m HTTP/1.1\r\nHost: h\r\nX_Y: 1\r\n\r\n")
            lines = await lines_of(path, 5)
    for line, (status, word) in zip(
        lines,
        (
            (431, "X-Long is over 300 bytes: see limits.line_bytes_max"),
            (431, "more than 10 header fields: see limits.header_fields_max"),
            (431, "over 1024 bytes: see limits.head_bytes_max"),
            (414, "limits.line_bytes_max is 300"),
            (400, "the header field X_Y has an underscore"),
        ),
        strict=True,
    ):
        assert line["status"] == status and word in line["detail"] and line["client"] == "127.0.0.1", line
