"""From a file to a configuration, or to every mistake in it.

The way: bytes → text → tree with places (`document`) → the schema and the rules between keys, all of them → mistakes in
the order of the file. Nothing is returned from a file with a mistake in it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from gateway.config import host_checks
from gateway.config.document import Document, Place, YamlSyntaxError, read_document
from gateway.config.edge import backend_flaws, edge_flaws
from gateway.config.errors import ConfigError, Flaw, Mistake, one_line, place_of
from gateway.config.explain import flaws_of
from gateway.config.hooks import hook_flaws
from gateway.config.relations import flaws_between
from gateway.config.schema import GatewayConfig

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
    of these backends alone. Raises ConfigError with every mistake.
    """
    return _load(path, text, os.environ if environ is None else environ, for_serving=for_serving, tls_of=tls_of)


def load_elsewhere(path: Path) -> GatewayConfig:
    """The configuration of a gateway that runs on another machine: its tokens and secrets need not be on this one.

    Raises ConfigError with every mistake that is in the file itself.
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
    flaws = [*document.flaws]
    config: GatewayConfig | None = None
    if not isinstance(document.tree, dict):
        _refuse(path, "the top level is not a mapping", "begin with the keys backends and routes")
    try:
        config = GatewayConfig.model_validate(document.tree, context=base)
    except ValidationError as error:
        flaws += [flaw for flaw in flaws_of(error, GatewayConfig) if flaw.path not in document.broken]
    flaws += flaws_between(document.tree)
    flaws += host_checks.token_flaws(document.tree, environ, base)
    if config and not flaws and environ is not None:
        flaws += hook_flaws(config.hooks, config.gates, environ)
    if config and for_serving:
        flaws += host_checks.state_dir_flaws(config.state_dir)
        flaws += host_checks.tls_flaws(config.admin)
        flaws += edge_flaws(config)
    if config and tls_of:
        flaws += backend_flaws(config, tls_of)
    if config is None or flaws:
        raise ConfigError(_mistakes(flaws, document, str(path)))
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
        _refuse(path, "there is no such file", "give the path of a configuration; config/gateway.yaml is an example")
    except IsADirectoryError:
        _refuse(path, "this is a directory", "give the path of the file in it")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        _refuse(path, f"cannot be read: {reason}", "give the path of a file that this user may read")
    if len(data) > FILE_BYTES_MAX:
        _refuse(path, f"holds more than {FILE_BYTES_MAX} bytes", "is this the right file?")
    return data


def _parse(data: bytes, file: str) -> Document:
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem, mend = "this line is not UTF-8 text", "save the file as UTF-8"
        raise ConfigError([_mistake(file, "", Place(line, 1), problem, mend)]) from None
    try:
        return read_document(text)
    except YamlSyntaxError as error:
        place = error.place
        raise ConfigError([_mistake(file, "", place, error.problem, error.mend)]) from None


def _refuse(path: Path, problem: str, mend: str) -> NoReturn:
    raise ConfigError([_mistake(str(path), "", None, problem, mend)])


def _mistake(file: str, where: str, place: Place | None, problem: str, mend: str) -> Mistake:
    return Mistake(file, where, place and place.line, place and place.column, one_line(problem), one_line(mend))


def _mistakes(flaws: Iterable[Flaw], document: Document, file: str) -> list[Mistake]:
    mistakes = [
        _mistake(file, place_of(flaw.path), document.place(flaw.path, flaw.at_key), flaw.problem, flaw.mend)
        for flaw in dict.fromkeys(flaws)
    ]
    return sorted(mistakes, key=lambda mistake: (mistake.line or 0, mistake.column or 0))
