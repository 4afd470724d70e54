"""Completion, as the shells ask for it, and the scripts as the shells read them."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest


def completed(run: Any, line: str, **env: str) -> list[str]:
    """What bash would be offered for the last word of the line."""
    words = line.split(" ")
    answer = run(_GATEWAY_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), **env)
    return [offer.split(",", 1)[1] for offer in answer.out.splitlines()]


def test_commands_and_options_are_completed(run: Any) -> None:
    assert completed(run, "gateway ro") == ["rollout"]
    assert "abort" in completed(run, "gateway rollout a")
    assert completed(run, "gateway demo --scen") == ["--scenario"]


def test_routes_and_rollouts_of_the_running_gateway_are_completed(run: Any, api: Any) -> None:
    env = {"GATEWAY_URL": api.url}
    assert completed(run, "gateway weight di", **env) == ["digits"]
    assert "digits" in completed(run, "gateway rollout show di", **env)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "not a url"])
def test_a_gateway_that_is_away_offers_nothing_and_says_nothing(run: Any, url: str) -> None:
    answer = run(_GATEWAY_COMPLETE="bash_complete", COMP_WORDS="gateway weight di", COMP_CWORD="2", GATEWAY_URL=url)
    assert (answer.out.strip(), answer.err) == ("", "")


def test_bash_reads_the_script(run: Any) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = run("completion", "bash").out
    done = subprocess.run([bash, "-n"], input=script, text=True, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete -o nosort -F _gateway_completion gateway" in script


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_each_shell_has_a_script_of_its_own(run: Any, shell: str) -> None:
    assert f"_GATEWAY_COMPLETE={shell}_complete" in run("completion", shell).out


def test_another_shell_is_refused(run: Any) -> None:
    status, out, err = run("completion", "tcsh")
    assert (status, out) == (2, "") and "'bash', 'zsh', 'fish'" in err
