"""A short soak: the same program as `make soak`, with a seed that is fixed so that a failure can be repeated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEED = 1


def test_under_faults_every_request_has_one_end_and_the_sums_agree() -> None:
    program = [sys.executable, str(ROOT / "loadtests/soak.py"), "--seconds", "12", "--seed", str(SEED)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == []
    assert report["sent"] > 200
    assert sum(report["faults"].values()) >= 3
