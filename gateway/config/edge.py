"""The gateway's edges: TLS and PROXY protocol towards clients, TLS, names and passive health towards backends.

Rules:

1. Clients meet TLS 1.2 at least. The first certificate serves whoever names no host, or one that no other is for.
2. A PROXY header is believed from its ranges only, and there is no listener that takes it or leaves it.
3. A backend's certificate is always verified, for the endpoint's host unless ``server_name`` says another.
"""

from __future__ import annotations

import enum
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.mistakes import BadValue, Flaw, TreePath
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
        yield from _refusal(path, lambda pair=pair: _chain(pair.cert_file, pair.key_file))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    if tls is not None and tls.client_ca_file is not None:
        ca = tls.client_ca_file
        yield from _refusal(("tls", "client_ca_file"), lambda: _authorities(ca))
    for name, backend in config.backends.items():
        yield from _backend_flaws(("backends", name, "tls"), backend.tls)


def _backend_flaws(path: TreePath, tls: BackendTlsConfig | None) -> Iterator[Flaw]:
    if tls is None:
        return
    ca, certificate, key = tls.ca_file, tls.cert_file, tls.key_file
    if ca is not None:
        yield from _refusal((*path, "ca_file"), lambda: _authorities(ca))
    if certificate is not None and key is not None:
        yield from _refusal((*path, "cert_file"), lambda: _chain(certificate, key))
    elif certificate is not None or key is not None:
        given, absent = ("cert_file", "key_file") if key is None else ("key_file", "cert_file")
        yield Flaw((*path, given), f"{absent} is not given", "give both, or none of them")


def _chain(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        mend = "give a certificate chain and its key as PEM files that this user may read, the key without a passphrase"
        raise BadValue(f"cannot use {certificate} with {key}: {_why(error)}", mend) from None


def _authorities(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except (OSError, ValueError) as error:
        mend = "give the CA's certificates as a PEM file that this user may read"
        raise BadValue(f"cannot use {path}: {_why(error)}", mend) from None


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _no_passphrase() -> str:
    # Without this OpenSSL would ask for one on the terminal.
    raise ValueError("the key has a passphrase")


def _refusal(path: TreePath, read: Callable[[], None]) -> Iterator[Flaw]:
    try:
        read()
    except BadValue as bad:
        yield Flaw(path, bad.problem, bad.mend)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
