"""Whether the PEM files that a configuration names can be used: those of the listener and of the backends."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from gateway.config.backend_connection import BackendTlsConfig
from gateway.config.errors import Issue, TreePath, issues_in
from gateway.config.pem import take_authorities, take_chain
from gateway.config.schema import GatewayConfig


def tls_issues(config: GatewayConfig) -> Iterator[Issue]:
    """Whether the files that the listener and the backends name can be used."""
    tls = config.tls
    for index, pair in enumerate(tls.certificates if tls else ()):
        path: TreePath = ("tls", "certificates", index, "cert_file")
        yield from issues_in(path, partial(_chain, pair.cert_file, pair.key_file))
    if tls is not None and tls.client_ca_file is not None:
        ca = tls.client_ca_file
        yield from issues_in(("tls", "client_ca_file"), lambda: _authorities(ca))
    yield from backend_issues(config, config.backends)


def backend_issues(config: GatewayConfig, names: Collection[str]) -> Iterator[Issue]:
    """Whether the files that these backends name can be used."""
    for name in names:
        yield from _backend_issues(("backends", name, "tls"), config.backends[name].tls)


def _backend_issues(path: TreePath, tls: BackendTlsConfig | None) -> Iterator[Issue]:
    if tls is None:
        return
    ca, certificate, key = tls.ca_file, tls.cert_file, tls.key_file
    if ca is not None:
        yield from issues_in((*path, "ca_file"), lambda: _authorities(ca))
    if certificate is not None and key is not None:
        yield from issues_in((*path, "cert_file"), lambda: _chain(certificate, key))
    elif certificate is not None or key is not None:
        given, absent = ("cert_file", "key_file") if key is None else ("key_file", "cert_file")
        yield Issue((*path, given), f"{absent} is missing", "set both, or neither")


def _chain(certificate: Path, key: Path) -> None:
    take_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)


def _authorities(path: Path) -> None:
    take_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), path)
