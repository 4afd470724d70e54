"""The comparison with other proxies: its parts that need nothing but Python, over real sockets and processes.

What needs nginx and wrk is run when the figures are made; CI has neither.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httptools
import msgspec
import pytest

from gateway.config.load import load
from loadtests.compare import client, peers, processes, record, run, table
from loadtests.compare.workloads import MARK, WORKLOADS, Workload

# What pins cores or makes load of its own takes turns.

ROOT = Path(__file__).parents[2]
EVENTUALLY_S = 20.0
BURN = """
import subprocess, sys, time
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
while time.process_time() < 0.3: pass
print(below.pid, time.process_time(), flush=True)
time.sleep(60)
"""

RUN = record.Run(
    run="2026-11-23T07:00:00+00:00",
    rounds=3,
    seconds=2,
    proxies=("nginx", "relay", "gateway"),
    rates={"small": 4000.0},
    commit="0123456789ab",
    kernel="6.1",
    processor="a processor",
    cpus=2,
    shared_core=False,
    versions={"nginx": "1.22.1"},
)


def measured(number: int, proxy: str, cpu_us: float | None, p99_us: float | None = 900.0) -> record.Measured:
    return record.Measured(RUN.run, number, "small", proxy, 1000, 500.0, 0, cpu_us=cpu_us, p99_us=p99_us)


ROUNDS = [
    *(measured(number, "nginx", cpu_us) for number, cpu_us in enumerate((20.0, 40.0, 10.0), 1)),
    *(measured(number, "gateway", cpu_us) for number, cpu_us in enumerate((60.0, 80.0, 25.0), 1)),
    *(measured(number, "relay", 15.0, None) for number in (1, 2)),
]


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_a_request_is_what_its_workload_says(workload: Workload) -> None:
    body, complete = bytearray(), []

    class Seen:
        def on_body(self, piece: bytes) -> None:
            body.extend(piece)

        def on_message_complete(self) -> None:
            complete.append(True)

    parser = httptools.HttpRequestParser(Seen())
    parser.feed_data(workload.request())
    assert complete == [True] and len(body) == workload.body_bytes
    assert (b"\r\nConnection: close\r\n" in workload.request()) is workload.close


def test_the_small_answer_is_as_long_as_promised() -> None:
    assert len(peers.SMALL_ANSWER) == 150 and "'" not in peers.SMALL_ANSWER


@pytest.mark.parametrize("template", [path.name for path in (ROOT / "loadtests/compare/templates").iterdir()])
def test_every_template_is_filled_in(template: str) -> None:
    text = peers.render(template, port=12345, upstream=23456, user="nobody", small="answer", workers=1)
    assert "12345" in text and "@{" not in text and "@@" not in text
    assert ("23456" in text) is (template != "backend.conf")


def test_a_template_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="upstream"):
        peers.render("haproxy.cfg", port=1)


def test_the_gateway_is_measured_as_it_is_used(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(peers.render("gateway.yaml", port=12345, upstream=23456, workers=1), encoding="utf-8")
    config = load(file)
    assert config.workers == 1 and config.routes[0].canary_percent == 10
    assert all(backend.probe is not None for backend in config.backends.values())


def test_the_last_line_of_wrk_is_read() -> None:
    line = '{"answered": 42, "duration_us": 1000, "errors": 1, "p50_us": 5, "p99_us": 9}'
    assert client.read_flood(f"Running 1s test\n  42 requests\n{line}\n") == client.Flooded(42, 1000, 1, 5, 9)
    with pytest.raises(client.ClientError, match="does not end in the line"):
        client.read_flood("Running 1s test\nunable to connect\n")


def test_cpu_and_memory_are_those_of_the_process_and_leaving_ends_it_and_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    core = processes.cores()[0]
    with processes.running([sys.executable, "-c", BURN], core, log) as pid:
        said = eventually_said(log)
        below, burnt_s = int(said[0]), float(said[1])
        everyone = processes.tree(pid)
        used = processes.usage([pid])
        assert everyone == [pid, below] and os.sched_getaffinity(below) == {core}
        assert "time.process_time" in processes.command_line(pid)
        # The clock of the process itself and the kernel's from outside are one; it has slept since.
        assert burnt_s <= used.cpu_ns / 1e9 < burnt_s + 0.2
        assert 1024 < used.rss_kib <= used.rss_peak_kib
    assert not any(alive(each) for each in everyone)
    with pytest.raises(ProcessLookupError, match="has died"):
        processes.usage([pid])


@pytest.mark.parametrize("name", ["relay", "starlette", "source"])
def test_a_proxy_in_front_of_the_backend_answers_both_kinds_of_request(name: str, tmp_path: Path) -> None:
    core, client_core = processes.cores()
    directory = tmp_path / name
    directory.mkdir()
    with (
        peers.backend("responder", tmp_path, client_core) as upstream,
        peers.running(peers.PROXIES[name], directory, upstream, core, tmp_path) as running,
    ):
        assert len(running.carrying) == 1 and bool(running.aside) is (name == "source")
        for workload in (WORKLOADS["upload"], WORKLOADS["sse"]):
            request = tmp_path / workload.name
            request.write_bytes(workload.request())
            paced = client.pace(workload, running.port, request, 20.0, 0.8, client_core)
            assert (paced.asked, paced.answered, paced.errors) == (16, 16, 0)
            assert paced.p50_us is not None and paced.p99_us is not None and 0 < paced.p50_us <= paced.p99_us
    assert not any(alive(pid) for pid in running.carrying + running.aside)


def test_the_open_loop_client_counts_what_is_not_answered(tmp_path: Path) -> None:
    request = tmp_path / "small"
    request.write_bytes(WORKLOADS["connect"].request())
    paced = client.pace(WORKLOADS["connect"], peers.free_port(), request, 50.0, 0.2, processes.cores()[1])
    assert paced == client.Paced(10, 0, 10, None, None)


def test_the_newest_run_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    with pytest.raises(ValueError, match="holds no run yet"):
        record.newest(file)
    older = record.circumstances(["relay"], 1, 1, {"small": 1.0}, {"python": [sys.executable, "--version"]})
    assert older.versions["python"] == ".".join(map(str, sys.version_info[:3])) and older.cpus >= 1
    record.append(file, older)
    record.append(file, record.Measured(older.run, 1, "small", "relay", 1, 1.0, 0))
    append_all(file)
    assert record.newest(file) == (RUN, ROUNDS)
    file.write_text("no JSON\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not a file of results"):
        record.newest(file)


def test_ratios_are_taken_within_a_round() -> None:
    assert table.ratios(ROUNDS, "small", "gateway", "nginx") == [3.0, 2.0, 2.5]
    assert table.ratios(ROUNDS, "small", "gateway", "relay") == [4.0, 80 / 15]  # it has no third round
    assert table.ratios(ROUNDS, "small", "gateway", "envoy") == []
    assert table.spread([3.0, 2.0, 2.5], 2) == "2.50 (2.00..3.00)"
    assert (table.spread([2.0], 1), table.spread([], 1)) == ("2.0", "-")


def test_two_workers_are_as_good_as_what_their_requests_cost_and_their_busier_one_allow() -> None:
    two = [
        record.Measured(RUN.run, number, "small", "two", 1000, per_s, 0, cpu_us=cpu_us, busiest=busiest)
        for number, per_s, cpu_us, busiest in ((1, 800.0, 60.0, 0.5), (2, 900.0, 100.0, 0.8))
    ]
    assert table.scaling(RUN, ROUNDS + two) == [2.0, 1.0]
    assert table.scaling(msgspec.structs.replace(RUN, cpus=8), ROUNDS + two) == [1.6, 1.8]
    assert table.scaling(RUN, ROUNDS) == []
    text = table.document(RUN, ROUNDS + two)
    assert "| two workers' capacity by CPU, ÷ one's | ≥ 1.70 | 1.50 (1.00..2.00) | no |" in text


def test_the_open_loop_client_says_something_new_in_each_request_where_that_is_asked_for(tmp_path: Path) -> None:
    request = tmp_path / "varied"
    request.write_bytes(WORKLOADS["varied"].request())
    said: list[bytes] = []

    def answer(listener: socket.socket) -> None:
        while len(said) < 8:
            peer = listener.accept()[0]
            with peer:
                said.append(peer.recv(65536))
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(EVENTUALLY_S)
        backend = threading.Thread(target=answer, args=(listener,), daemon=True)
        backend.start()
        paced = client.pace(WORKLOADS["connect"], listener.getsockname()[1], request, 20.0, 0.4, processes.cores()[1])
        backend.join(EVENTUALLY_S)
    assert paced.answered == 8 and len(set(said)) == 8 and not any(MARK in each for each in said)


def test_who_takes_part_is_what_both_workload_and_proxy_say() -> None:
    proxies = ["nginx", "starlette", "source", "gateway", "two"]
    assert run._taking_part(proxies, WORKLOADS["small"]) == proxies  # noqa: SLF001  # it decides who is in the table
    assert run._taking_part(proxies, WORKLOADS["varied"]) == ["nginx", "source", "gateway"]  # noqa: SLF001  # as above
    assert run._taking_part(proxies, WORKLOADS["sse"]) == ["nginx", "starlette", "gateway"]  # noqa: SLF001  # as above


def test_the_table_says_what_was_missed_and_by_how_much() -> None:
    text = table.document(RUN, ROUNDS)
    assert "commit `0123456789ab`" in text and "nginx 1.22.1" in text
    assert "| gateway | 60.0 (25.0..80.0) | 2.50 (2.00..3.00) |" in text
    assert "| CPU on small, ÷ nginx | ≤ 1.50 | 2.50 (2.00..3.00) | no, 1.7 times that |" in text
    assert "| p99 on small over nginx's, µs | ≤ 500 | 0 | yes |" in text
    assert "envoy" not in text and "outside of the comparison" not in text


def test_the_table_says_when_the_machine_was_not_quiet() -> None:
    quiet, loud = (
        table.document(RUN, [msgspec.structs.replace(entry, others=share) for entry in ROUNDS]) for share in (0.01, 0.5)
    )
    assert "took 1 % of the proxy's core.\n" in quiet
    assert "took 50 % of the proxy's core. **Too much" in loud


def test_a_busy_core_is_seen() -> None:
    core = processes.cores()[0]
    before_s = processes.core_busy_s(core)
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run(processes.pinned([sys.executable, "-c", burn], core), check=True, timeout=EVENTUALLY_S)
    assert processes.core_busy_s(core) - before_s >= 0.2
    with pytest.raises(ValueError, match="no core 100000"):
        processes.core_busy_s(100000)


def test_the_command_line(tmp_path: Path) -> None:
    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "loadtests/compare/run.py", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    file = tmp_path / "results.jsonl"
    append_all(file)
    shown = ran("--table", "--out", str(file))
    assert (shown.returncode, shown.stdout) == (0, table.document(RUN, ROUNDS) + "\n")
    none = ran("--table", "--out", str(tmp_path / "none"))
    assert none.returncode == 1 and "holds no run yet" in none.stderr and "Traceback" not in none.stderr
    wrong = ran("--proxies", "nginx,apache")
    assert wrong.returncode == 2 and "apache: choose from nginx, haproxy" in wrong.stderr


def test_what_is_not_installed_is_said_at_once_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("COMPARE_ENVOY", "/nowhere/envoy")
    with pytest.raises(peers.Missing) as missing:
        run.compare(["envoy", "relay"], ["small"], 1, 1, Path("never-written"))
    assert [line.partition(":")[0] for line in str(missing.value).splitlines()[:-1]] == [
        f"{name} is not installed" for name in ("nginx", "wrk", "setpriv", "taskset", "envoy")
    ]


def append_all(file: Path) -> None:
    record.append(file, RUN)
    for entry in ROUNDS:
        record.append(file, entry)


def eventually_said(log: Path) -> list[str]:
    """The words of the first line of a log, once it is there."""
    end_s = time.monotonic() + EVENTUALLY_S
    while time.monotonic() < end_s:
        if "\n" in (text := log.read_text(encoding="utf-8") if log.exists() else ""):
            return text.split()
        time.sleep(0.02)
    raise AssertionError("nothing was said")


def alive(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be counted."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
