"""`gateway token new`: what it prints lets in, and what the configuration keeps of it does not."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from click.testing import CliRunner

from gateway.cli import gateway
from gateway.config.host_checks import admin_keys, sha256_of
from gateway.config.load import load

CONFIG = "backends: {a: {endpoints: ['http://127.0.0.1:9']}}\nroutes: [{name: r, match: {path_prefix: /}, stable: a}]\n"


def test_a_new_token_and_its_lines_for_the_configuration(tmp_path: Path) -> None:
    made = CliRunner().invoke(gateway, ["token", "new", "--name", "ci", "--scope", "operate", "--scope", "operate"])
    assert made.exit_code == 0, made.output
    token = made.stdout.strip()
    assert len(token) == 43 and token not in made.stderr
    (tmp_path / "gateway.yaml").write_text(CONFIG + made.stderr)
    (key,) = admin_keys(load(tmp_path / "gateway.yaml").admin, {})
    assert (key.name, list(key.scopes), key.sha256) == ("ci", ["operate"], sha256_of(token))


def test_for_programs_it_is_one_object() -> None:
    arguments = ["token", "new", "--name", "ci", "--scope", "read", "--scope", "admin", "--json"]
    made, again = (json.loads(CliRunner().invoke(gateway, arguments).stdout) for _ in range(2))
    assert made["config"] == {"name": "ci", "scopes": ["read", "admin"], "sha256": sha256_of(made["token"])}
    assert made["token"] != again["token"]
    assert yaml.safe_load(yaml.safe_dump(made)) == made


def test_a_name_that_cannot_be_shown_is_refused() -> None:
    refused = CliRunner().invoke(gateway, ["token", "new", "--name", "a\nb", "--scope", "read"])
    assert refused.exit_code == 2 and "audit trail" in refused.output
