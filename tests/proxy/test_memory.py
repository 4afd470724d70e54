"""What a worker does about memory."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource
from gateway.proxy import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        kept = [bytes(65536 + i) for i in range(3)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

memory.settle()
faults()
print(faults())
"""


def test_bodies_pass_without_memory_being_fetched_anew_for_each() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 50, "page faults for 200 times three bodies: without it there are some for each"


BURST = """
import re
from pathlib import Path
from gateway.proxy import memory
from gateway.proxy.body_store import BodyStore
from gateway.proxy.exchange.request_body import RequestBody

def rss_mib():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

memory.settle()
store = BodyStore(256 << 20, 0, None)
base, others = rss_mib(), []
bodies = [RequestBody(store) for _ in range(100)]
for _ in range(15):
    for body in bodies:
        body.hold(bytes(60_000))
        others.append(bytes(2_000))  # what lives on between the pieces
store.sweep(1.0)
peak = rss_mib() - base
for body in bodies:
    body.close()
store.sweep(2.0)
kept = rss_mib() - base
store.sweep(20.0)
print(peak, kept, rss_mib() - base)
"""


def test_what_a_burst_of_bodies_took_is_given_back_when_it_is_over() -> None:
    done = subprocess.run([sys.executable, "-c", BURST], capture_output=True, text=True, timeout=60, check=True)
    peak, kept, left = map(int, done.stdout.split())
    assert peak > 80, "90 MB were held"
    assert kept > 60, "not at once: the next burst may be about to come"
    assert left < 20, "but once it is quiet"
