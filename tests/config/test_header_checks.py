"""Values of header fields from the environment and from files: had before a configuration is in force, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.errors import ConfigError
from gateway.config.load import load

CONFIG = """
backends:
  a:
    endpoints: [http://127.0.0.1:9]
    request: {{set_headers: [{{name: authorization, prefix: "Bearer ", {way}}}]}}
routes: [{{name: r, match: {{path_prefix: /}}, stable: a}}]
"""
AT = "backends.a.request.set_headers[0]"


def issues(directory: Path, way: str, *, api: tuple[str, ...] = (), environ: dict[str, str] | None = None) -> list[str]:
    path = directory / "gateway.yaml"
    path.write_text(CONFIG.format(way=way), encoding="utf-8")
    try:
        load(path, text=path.read_bytes(), environ=environ or {}, tls_of=api)
    except ConfigError as error:
        return [f"{issue.place}: {issue.problem}" for issue in error.issues]
    return []


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "the environment variable KEY is not set"),
        ("", "KEY holds nothing"),
        (" \n", "KEY holds nothing"),
        ("a\nb", "KEY holds control characters"),
        ("k" * 16385, "KEY holds more than 16384 bytes"),
        ("key-1\n", None),
    ],
)
def test_a_variable_has_to_hold_a_value(tmp_path: Path, value: str | None, problem: str | None) -> None:
    found = issues(tmp_path, "value_env: KEY", environ={} if value is None else {"KEY": value})
    assert found == ([] if problem is None else [f"{AT}.value_env: {problem}"])


def test_a_file_has_to_hold_a_value(tmp_path: Path) -> None:
    file = tmp_path / "key"
    assert issues(tmp_path, "value_file: key") == [f"{AT}.value_file: cannot read {file}: No such file or directory"]
    file.write_text("\n")
    assert issues(tmp_path, "value_file: key") == [f"{AT}.value_file: {file} holds nothing"]
    file.write_text("key-1\n")
    assert issues(tmp_path, "value_file: key") == []


@pytest.mark.parametrize("way", ["value_env: KEY", "value_file: key"])
def test_a_backend_of_the_api_gets_no_value_from_this_machine(tmp_path: Path, way: str) -> None:
    (tmp_path / "key").write_text("key-1")
    assert issues(tmp_path, way, api=("a",), environ={"KEY": "key-1"}) == [
        f"{AT}.{way.partition(':')[0]}: cannot be set over the API"
    ]
    assert issues(tmp_path, "value: plain", api=("a",)) == []


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("{path_prefix: /a}", "backends.a.request.path_prefix: path_replacement is missing"),
        ("{path_replacement: /a}", "backends.a.request.path_replacement: path_prefix is missing"),
        (
            "{set_headers: [{name: x-a}]}",
            f"{AT}: none of value, value_env, value_file is set",
        ),
    ],
)
def test_half_a_change_is_refused(tmp_path: Path, section: str, problem: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        CONFIG.format(way="value: v").replace(
            '{set_headers: [{name: authorization, prefix: "Bearer ", value: v}]}', section
        )
    )
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    assert [f"{issue.place}: {issue.problem}" for issue in caught.value.issues] == [problem]
