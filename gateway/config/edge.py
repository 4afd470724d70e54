"""The gateway's edges: TLS and PROXY protocol towards clients, TLS, names and passive health towards backends.

Rules:

1. Clients meet TLS 1.2 at least. The first certificate serves whoever names no host, or one that no other is for.
2. A PROXY header is believed from its ranges only, and there is no listener that takes it or leaves it.
3. A backend's certificate is always verified, for the endpoint's host unless ``server_name`` says another.
"""

from __future__ import annotations

import enum
import ssl
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.errors import Flaw, TreePath, flaws_in
from gateway.config.pem import take_authorities, take_chain
from gateway.config.section import YEAR_S, Cidr, FilePath, Seconds, Section
from gateway.config.shape import Noun
from gateway.core.traffic.table import BackendTls, Passive

if TYPE_CHECKING:
    from gateway.config.schema import GatewayConfig

_PASSIVE = Passive()


class TlsVersion(enum.StrEnum):
    """The oldest version that is spoken."""

    TLS_1_2 = "TLSv1.2"
    TLS_1_3 = "TLSv1.3"


class CertificateConfig(Section):
    """A certificate chain and its key, as PEM files."""

    cert_file: FilePath
    key_file: FilePath


class TlsConfig(Section):
    """TLS on the listener for requests."""

    certificates: Annotated[list[CertificateConfig], Field(min_length=1, max_length=1000)]
    client_ca_file: FilePath | None = None
    min_version: Annotated[TlsVersion, Field(strict=False)] = TlsVersion.TLS_1_2
    handshake_timeout_s: Seconds = 10.0


class ProxyProtocolConfig(Section):
    """Every connection of the listener for requests begins with a PROXY header."""

    trusted: Annotated[list[Cidr], Field(min_length=1, max_length=1000)]
    timeout_s: Seconds = 3.0


class BackendTlsConfig(Section):
    """How a backend's certificate is verified, and what is shown to it."""

    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    server_name: Annotated[str, AfterValidator(grammar.host_name), Noun("a host name")] | None = None

    def table(self) -> BackendTls:
        """The same, as the routing table wants it."""
        return BackendTls(_text(self.ca_file), _text(self.cert_file), _text(self.key_file), self.server_name)


class PassiveConfig(Section):
    """When live traffic takes an endpoint out of its backend's rotation."""

    failures: Annotated[int, Field(ge=1, le=1000)] = _PASSIVE.failures
    base_s: Seconds = _PASSIVE.base_s
    max_s: Seconds = _PASSIVE.max_s
    ejected_percent_max: Annotated[float, Field(ge=0, le=100), Noun("a percentage")] = _PASSIVE.ejected_percent_max
    slow_start_s: Annotated[float, Field(ge=0, le=YEAR_S), Noun("a number of seconds")] = _PASSIVE.slow_start_s


def edge_flaws(config: GatewayConfig) -> Iterator[Flaw]:
    """Whether the files that the edges name can be used."""
    tls = config.tls
    for index, pair in enumerate(tls.certificates if tls else ()):
        path: TreePath = ("tls", "certificates", index, "cert_file")
        yield from flaws_in(path, partial(_chain, pair.cert_file, pair.key_file))
    if tls is not None and tls.client_ca_file is not None:
        ca = tls.client_ca_file
        yield from flaws_in(("tls", "client_ca_file"), lambda: _authorities(ca))
    yield from backend_flaws(config, config.backends)


def backend_flaws(config: GatewayConfig, names: Collection[str]) -> Iterator[Flaw]:
    """Whether the files that these backends name can be used."""
    for name in names:
        yield from _backend_flaws(("backends", name, "tls"), config.backends[name].tls)


def _backend_flaws(path: TreePath, tls: BackendTlsConfig | None) -> Iterator[Flaw]:
    if tls is None:
        return
    ca, certificate, key = tls.ca_file, tls.cert_file, tls.key_file
    if ca is not None:
        yield from flaws_in((*path, "ca_file"), lambda: _authorities(ca))
    if certificate is not None and key is not None:
        yield from flaws_in((*path, "cert_file"), lambda: _chain(certificate, key))
    elif certificate is not None or key is not None:
        given, absent = ("cert_file", "key_file") if key is None else ("key_file", "cert_file")
        yield Flaw((*path, given), f"{absent} is not given", "give both, or none of them")


def _chain(certificate: Path, key: Path) -> None:
    take_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)


def _authorities(path: Path) -> None:
    take_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), path)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
