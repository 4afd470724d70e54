"""The rule of tests/conftest.py: where CI is set, a test that skips itself has failed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

SKIPPERS = {
    "test_marked.py": "import pytest\n@pytest.mark.skip(reason='no engine')\ndef test_it(): pass\n",
    "test_inside.py": "import pytest\ndef test_it(): pytest.skip('no engine')\n",
    "test_module.py": "import pytest\npytest.importorskip('there_is_no_such_module')\ndef test_it(): pass\n",
    "test_xfail.py": "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_it(): assert False\n",
}


def run(folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    shutil.copy(CONFTEST, folder)
    for name, text in SKIPPERS.items():
        (folder / name).write_text(text, encoding="utf-8")
    clean = {key: value for key, value in os.environ.items() if key != "CI"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout


def test_in_ci_each_kind_of_skip_fails_and_says_why(tmp_path: Path) -> None:
    # A file that skips as a whole is an error of collection, which would stop the run before the others.
    status, output = run(tmp_path, {"CI": "true", "PYTEST_ADDOPTS": "--continue-on-collection-errors"})
    assert status == 1
    assert "1 failed, 1 xfailed, 2 errors" in output
    assert output.count("skipped, which CI does not allow") >= 3
    assert "no engine" in output and "there_is_no_such_module" in output


@pytest.mark.parametrize("environment", [{}, {"CI": "false"}, {"CI": ""}])
def test_elsewhere_a_skip_is_a_skip(environment: dict[str, str], tmp_path: Path) -> None:
    status, output = run(tmp_path, environment)
    assert status == 0 and "3 skipped, 1 xfailed" in output
