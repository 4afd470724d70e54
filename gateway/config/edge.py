"""The gateway's edges: TLS and PROXY protocol towards clients, TLS, names and passive health towards backends.

Rules:

1. Clients meet TLS 1.2 at least. The first certificate serves whoever names no host, or one that no other is for.
2. A PROXY header is believed from its ranges only, and there is no listener that takes it or leaves it.
3. A backend's certificate is always verified, for the endpoint's host unless ``server_name`` says another.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.section import YEAR_S, Cidr, FilePath, Seconds, Section
from gateway.config.shape import Noun
from gateway.core.traffic.table import BackendTls, Passive

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


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
