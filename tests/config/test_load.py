"""A bad configuration names every error: the place, the line, what is wrong and how to fix it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.errors import ConfigError, LocatedIssue
from gateway.config.host_checks import admin_token
from gateway.config.load import load, load_elsewhere
from gateway.config.schema import GatewayConfig

VALID = """\
listen: 127.0.0.1:8080
workers: 2
state_dir: ./state
admin:
  listen: 127.0.0.1:9900
limits: {head_bytes_max: 32768, body_bytes_max: null, head_timeout_s: 10}
trusted_proxies: [10.0.0.0/8]
backends:
  digits-v1:
    endpoints: [http://127.0.0.1:8001]
    queue_max: 1024
    probe: {path: /v2/health/ready, rise: 2}
  digits-v2:
    endpoints:
      - http://127.0.0.1:8002
    probe: null
routes:
  - name: digits
    match: {path_prefix: /v2/models/digits, hosts: [a.example]}
    stable: digits-v1
    canary: digits-v2
    canary_percent: 0
    forced_variant_header: X-Gateway-Variant
    sticky: {header: X-User}
    timeouts: {connect_s: 1, total_s: 300}
    rescue: {replayable: true, budget_burst: 1000}
    analysis:
      alpha_rollback: 0.01
      errors: {mode: decide, margin_ratio: 1.5}
      latency: {quantiles: [0.5, 0.95], tolerance_ms: 2}
    plan:
      steps: [{percent: 1, min_time_s: 60}, {percent: 50}]
      on_deadline: hold
"""

SECOND_ROUTE = """\
  - name: more
    match: {path_prefix: /more}
    stable: digits-v1
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def issues_in(directory: Path, text: str, **environ: str) -> list[LocatedIssue]:
    with pytest.raises(ConfigError) as caught:
        load(write(directory, text), environ=environ)
    assert all(issue.problem and issue.hint for issue in caught.value.issues)
    assert len(str(caught.value).splitlines()) == len(caught.value.issues)
    return list(caught.value.issues)


def test_the_valid_text_is_valid(tmp_path: Path) -> None:
    config = load(write(tmp_path, VALID), environ={})
    assert isinstance(config, GatewayConfig)
    assert config.state_dir == tmp_path / "state"
    assert config.routes[0].forced_variant_header == "x-gateway-variant"
    assert str(config.listen) == "127.0.0.1:8080"


def golden() -> list[tuple[str, str, list[str]]]:
    """The blocks of issues.txt: a change to VALID (``old => new``), and all the lines that it must earn."""
    blocks = (Path(__file__).parent / "issues.txt").read_text(encoding="utf-8").split("\n\n")
    cases = []
    for block in blocks:
        change, *lines = block.rstrip("\n").split("\n")
        old, new = change.replace("\\n", "\n").split(" => ")
        cases.append((old, new, [line.strip() for line in lines]))
    return cases


@pytest.mark.parametrize(("old", "new", "lines"), golden())
def test_an_error_names_its_place_line_and_hint(tmp_path: Path, old: str, new: str, lines: list[str]) -> None:
    assert old in VALID
    assert lines
    found = [str(issue) for issue in issues_in(tmp_path, VALID.replace(old, new, 1))]
    assert found == [f"{tmp_path}/gateway.yaml:{line}" for line in lines]


def test_the_rendered_line_is_exact(tmp_path: Path) -> None:
    text = VALID.replace("canary_percent: 0", "canary_percent: 130")
    line = "routes[0].canary_percent: 130 is greater than 100; expected a percentage from 0 to 100"
    assert str(issues_in(tmp_path, text)[0]) == f"{tmp_path}/gateway.yaml:22: {line}"
    assert issues_in(tmp_path, text)[0].column == 21


def test_routes_with_the_same_match_or_name_are_named(tmp_path: Path) -> None:
    same_match = VALID + SECOND_ROUTE.replace("/more}", "/v2/models/digits/, hosts: [b.example, A.EXAMPLE]}")
    (issue,) = issues_in(tmp_path, same_match)
    assert (issue.place, issue.line) == ("routes[1].match.path_prefix", 35)
    assert "on host 'a.example' is also matched by routes[0]" in issue.problem
    (issue,) = issues_in(tmp_path, VALID + SECOND_ROUTE.replace("more\n", "digits\n"))
    assert (issue.place, issue.line) == ("routes[1].name", 34)
    load(write(tmp_path, VALID + SECOND_ROUTE.replace("/more}", "/v2/models/digits}")), environ={})


def test_all_errors_are_reported_at_once_in_the_files_order(tmp_path: Path) -> None:
    text = VALID
    for old, new in [
        ("workers: 2", "workers: 0"),
        ("stable: digits-v1", "stable: other"),
        ("10.0.0.0/8", "x"),
        ("on_deadline: hold", "on_deadlines: hold"),
        ("{header: X-User}", "{}"),
    ]:
        text = text.replace(old, new, 1)
    places = [issue.place for issue in issues_in(tmp_path, text)]
    assert places == [
        "workers",
        "trusted_proxies[0]",
        "routes[0].stable",
        "routes[0].sticky",
        "routes[0].plan.on_deadlines",
    ]


def test_a_user_name_in_a_url_is_refused_and_not_shown(tmp_path: Path) -> None:
    (issue,) = issues_in(tmp_path, VALID.replace("http://127.0.0.1:8001", "http://u:hunter2@h"))
    assert "user name or password" in issue.problem
    assert "hunter2" not in str(issue)


WHOLE_FILES: list[tuple[bytes, int | None, str]] = [
    (b"", None, "the file is empty; begin with the keys backends and routes"),
    (b"# only a comment\n", None, "the file is empty"),
    (b"- a\n- b\n", None, "the top level is not a mapping; begin with"),
    (b"null\n", None, "the top level is not a mapping"),
    (b"listen: x\n  workers: 1\n", 2, "invalid YAML: mapping values are not allowed in this context; fix this line"),
    (b"a: [1,\nb: {\n", 3, "invalid YAML: "),
    (b"a: 1\n---\nb: 1\n", 2, "a second document begins here"),
    (b"a: 1\nb: *nowhere\n", 2, "the alias *nowhere has no anchor"),
    (b"a: 1\nb: \x00\n", 2, "the character U+0000 is not allowed in YAML; remove it"),
    (b'a: 1\nb: "\\UFFFFFFFF"\n', 2, "found invalid Unicode character escape code"),
    (b"a: 1\nb: \xff\xfe\n", 2, "invalid UTF-8 on this line; save the file as UTF-8"),
    (b"a: &a [*a]\n", 1, "holds more than 50000 values"),
    (b"a: &a {<<: *a, b: 1}\n", 1, "holds more than 50000 values"),
    (b"a: " + b"[" * 5000, 1, "holds more than 50000 values"),
    (b"a: " + b"[" * 39 + b"]" * 39 + b"\nb: " + b"[" * 60 + b"]" * 60, 2, "holds more than 50000 values"),
    (b"#" * (1 << 20) + b"\n", None, "holds more than 1048576 bytes"),
]


@pytest.mark.parametrize(("data", "line", "words"), WHOLE_FILES, ids=[str(n) for n in range(len(WHOLE_FILES))])
def test_a_file_without_a_usable_tree_is_one_error(tmp_path: Path, data: bytes, line: int | None, words: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    (issue,) = caught.value.issues
    assert (issue.line, issue.place) == (line, "")
    assert words in str(issue)
    assert "\n" not in str(issue)


def test_an_alias_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    (issue,) = issues_in(tmp_path, "\n".join(lines))
    assert "make it smaller" in issue.hint


def test_missing_file_and_directory_and_forbidden_path(tmp_path: Path) -> None:
    for path, words in [
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "is a directory"),
        (tmp_path / "a\0b", "cannot be read"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
    ]:
        with pytest.raises(ConfigError, match=words):
            load(path)


def test_anchors_and_merge_keys_work_and_own_keys_win(tmp_path: Path) -> None:
    text = VALID.replace("timeouts: {connect_s", "timeouts: &times {idle_s: 7, connect_s") + SECOND_ROUTE
    config = load(write(tmp_path, text + "    timeouts: {<<: *times, connect_s: 3}\n"), environ={})
    timeouts = config.routes[1].timeouts
    assert (timeouts.connect_s, timeouts.first_byte_s, timeouts.idle_s, timeouts.total_s) == (3, 15, 7, 300)


TOKEN = "0123456789abcdef"
OPEN_ADMIN = VALID.replace("  listen: 127.0.0.1:9900", "  listen: 0.0.0.0:9900\n  token_env: GATEWAY_ADMIN_TOKEN")


def test_a_token_from_the_environment(tmp_path: Path) -> None:
    environ = {"GATEWAY_ADMIN_TOKEN": TOKEN}
    config = load(write(tmp_path, OPEN_ADMIN), environ=environ)
    assert admin_token(config.admin, environ) == TOKEN


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "the environment variable GATEWAY_ADMIN_TOKEN is not set; set it to a token of at least 16"),
        ({"GATEWAY_ADMIN_TOKEN": "s3cret-short"}, "has 12 characters; use at least 16"),
        ({"GATEWAY_ADMIN_TOKEN": "s3cret with spaces in it"}, "spaces or characters outside ASCII"),
    ],
)
def test_a_bad_token_is_refused_and_not_shown(tmp_path: Path, environ: dict[str, str], words: str) -> None:
    (issue,) = issues_in(tmp_path, OPEN_ADMIN, **environ)
    assert (issue.place, issue.line) == ("admin.token_env", 6)
    assert words in str(issue)
    assert "s3cret" not in str(issue)


def test_a_token_file_is_read_relative_to_the_configuration(tmp_path: Path) -> None:
    text = OPEN_ADMIN.replace("token_env: GATEWAY_ADMIN_TOKEN", "token_file: secret")
    (issue,) = issues_in(tmp_path, text)
    assert issue.place == "admin.token_file"
    assert "No such file" in issue.problem
    (tmp_path / "secret").write_text(f"{TOKEN}\n")
    config = load(write(tmp_path, text), environ={})
    assert admin_token(config.admin, {}) == TOKEN
    both = text.replace("token_file: secret", "token_file: secret\n  token_env: T")
    assert any("keep one of the two" in issue.hint for issue in issues_in(tmp_path, both, T=TOKEN))


ELSEWHERE = VALID.replace(
    "  listen: 127.0.0.1:9900",
    """\
  tokens:
    - {name: ops, scopes: [operate], env: GATEWAY_NOT_HERE}
    - {name: you, scopes: [read], file: not-here}
hooks: [{name: chat, url_env: GATEWAY_NOT_HERE, secret_file: not-here}]
gates: [{name: gate, url: "http://127.0.0.1:1/", secret_env: GATEWAY_NOT_HERE}]""",
)


def test_tokens_and_secrets_of_another_machine_need_not_be_here(tmp_path: Path) -> None:
    config = load_elsewhere(write(tmp_path, ELSEWHERE))
    assert [token.name for token in config.admin.tokens] == ["ops", "you"]
    no_tokens = "".join(line for line in ELSEWHERE.splitlines(keepends=True) if "scopes" not in line)
    config = load_elsewhere(write(tmp_path, no_tokens.replace("  tokens:\n", "  listen: 127.0.0.1:9900\n")))
    assert (config.hooks[0].name, config.gates[0].name) == ("chat", "gate")


@pytest.mark.parametrize(
    ("here", "wrong", "place"),
    [
        ("[operate]", "[bogus]", "admin.tokens[0].scopes[0]"),
        ("env: GATEWAY_NOT_HERE", "env: GATEWAY_NOT_HERE, file: x", "admin.tokens[0]"),
        ("env: GATEWAY_NOT_HERE", "env: s3cret+s3cret+s3cret", "admin.tokens[0].env"),
        ("name: you", "name: ops", "admin.tokens[1].name"),
    ],
)
def test_what_is_wrong_in_the_file_itself_is_wrong_elsewhere_too(
    tmp_path: Path, here: str, wrong: str, place: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load_elsewhere(write(tmp_path, ELSEWHERE.replace(here, wrong, 1)))
    assert [issue.place for issue in raised.value.issues] == [place]
    assert "s3cret" not in str(raised.value)


def test_a_pasted_token_in_place_of_the_variables_name_is_not_shown(tmp_path: Path) -> None:
    (issue,) = issues_in(tmp_path, OPEN_ADMIN.replace("GATEWAY_ADMIN_TOKEN", "s3cret+s3cret+s3cret"))
    assert issue.place == "admin.token_env"
    assert "s3cret" not in str(issue)
