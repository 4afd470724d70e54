"""From a file to a configuration, or to every error in it.

The way: bytes → text → tree with places (`document`) → the schema and the rules between keys, all of them → issues in
the order of the file. Nothing is returned from a file with an error in it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from gateway.config import host_checks
from gateway.config.actuators import actuator_issues
from gateway.config.cross_checks import issues_between
from gateway.config.document import Document, Place, YamlSyntaxError, read_document
from gateway.config.errors import ConfigError, Issue, LocatedIssue, one_line, place_of
from gateway.config.explain import issues_of
from gateway.config.features import feature_store_issues
from gateway.config.header_checks import header_issues, secrets_of_the_api
from gateway.config.hooks import hook_issues
from gateway.config.schema import GatewayConfig
from gateway.config.sources import source_issues
from gateway.config.tls_checks import backend_issues, tls_issues
from gateway.config.tracing import tracing_issues

FILE_BYTES_MAX = 1 << 20


def load(
    path: Path,
    *,
    text: bytes | None = None,
    environ: Mapping[str, str] | None = None,
    for_serving: bool = False,
    tls_of: Collection[str] = (),
) -> GatewayConfig:
    """The configuration in the file at ``path``, or in ``text`` as if it were there.

    Relative paths in it are relative to it. ``environ`` (default: the process's) is where ``admin.token_env`` is looked
    up. ``for_serving`` also asks whether the state directory can be used, and all TLS files; ``tls_of`` asks for those
    of these backends alone. Raises ConfigError with every error.
    """
    return _load(path, text, os.environ if environ is None else environ, for_serving=for_serving, tls_of=tls_of)


def load_elsewhere(path: Path) -> GatewayConfig:
    """The configuration of a gateway that runs on another machine: its tokens and secrets need not be on this one.

    Raises ConfigError with every error that is in the file itself.
    """
    return _load(path, None, None, for_serving=False)


def check_text(path: Path, text: bytes) -> None:
    """Raise ConfigError unless ``text`` would be a configuration at ``path``; the machine is not asked for anything."""
    _load(path, text, None, for_serving=False)


def _load(
    path: Path,
    text: bytes | None,
    environ: Mapping[str, str] | None,
    *,
    for_serving: bool,
    tls_of: Collection[str] = (),
) -> GatewayConfig:
    base = Path(os.path.abspath(path)).parent
    document = _parse(read(path) if text is None else text, str(path))
    issues = [*document.issues]
    config: GatewayConfig | None = None
    if not isinstance(document.tree, dict):
        _refuse(path, "the top level is not a mapping", "begin with the keys backends and routes")
    try:
        config = GatewayConfig.model_validate(document.tree, context=base)
    except ValidationError as error:
        issues += [issue for issue in issues_of(error, GatewayConfig) if issue.path not in document.broken]
    issues += issues_between(document.tree)
    issues += host_checks.token_issues(document.tree, environ, base)
    if config and not issues and environ is not None:
        issues += hook_issues(config.hooks, config.gates, environ)
        issues += header_issues(config, environ)
        issues += source_issues(config.sources, environ)
        issues += actuator_issues(config.actuators, environ)
        issues += feature_store_issues(config.feature_stores, environ)
        issues += tracing_issues(config.tracing, environ)
    if config and for_serving:
        issues += host_checks.state_dir_issues(config.state_dir)
        issues += host_checks.tls_issues(config.admin)
        issues += tls_issues(config)
    if config and tls_of:
        issues += backend_issues(config, tls_of)
        issues += secrets_of_the_api(config, tls_of)
    if config is None or issues:
        raise ConfigError(_located_all(issues, document, str(path)))
    return config


def reload(path: Path, text: bytes) -> GatewayConfig:
    """What `load` has made of ``text`` before; neither the file nor the rest of the machine is asked again."""
    tree = _parse(text, str(path)).tree
    return GatewayConfig.model_validate(tree, context=Path(os.path.abspath(path)).parent)


def read(path: Path) -> bytes:
    """The bytes of a file of configuration. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        _refuse(path, "no such file", "config/gateway.yaml is an example")
    except IsADirectoryError:
        _refuse(path, "is a directory", "use the path of the file in it")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        _refuse(path, f"cannot be read: {reason}", "use a file that this user may read")
    if len(data) > FILE_BYTES_MAX:
        _refuse(path, f"holds more than {FILE_BYTES_MAX} bytes", "is this the right file?")
    return data


def _parse(data: bytes, file: str) -> Document:
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem, hint = "invalid UTF-8 on this line", "save the file as UTF-8"
        raise ConfigError([_located(file, "", Place(line, 1), problem, hint)]) from None
    try:
        return read_document(text)
    except YamlSyntaxError as error:
        place = error.place
        raise ConfigError([_located(file, "", place, error.problem, error.hint)]) from None


def _refuse(path: Path, problem: str, hint: str) -> NoReturn:
    raise ConfigError([_located(str(path), "", None, problem, hint)])


def _located(file: str, where: str, place: Place | None, problem: str, hint: str) -> LocatedIssue:
    return LocatedIssue(file, where, place and place.line, place and place.column, one_line(problem), one_line(hint))


def _located_all(issues: Iterable[Issue], document: Document, file: str) -> list[LocatedIssue]:
    located = [
        _located(file, place_of(issue.path), document.place(issue.path, issue.at_key), issue.problem, issue.hint)
        for issue in dict.fromkeys(issues)
    ]
    return sorted(located, key=lambda issue: (issue.line or 0, issue.column or 0))
