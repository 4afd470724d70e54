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
