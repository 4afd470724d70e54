"""The sections ``tls`` and ``proxy_protocol``: connections from clients.

Rules:

1. Clients need TLS 1.2 at least. The first certificate serves clients that name no host, or an unknown one.
2. A PROXY header is required on every connection, and accepted from the trusted ranges only.
"""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import Field

from gateway.config.section import Cidr, FilePath, Seconds, Section
from gateway.config.shape import Doc


class TlsVersion(enum.StrEnum):
    """The oldest version that is accepted."""

    TLS_1_2 = "TLSv1.2"
    TLS_1_3 = "TLSv1.3"


class CertificateConfig(Section):
    """A certificate chain and its key, as PEM files."""

    cert_file: Annotated[FilePath, Doc("The certificate chain, PEM. A changed file is taken up within a second.")]
    key_file: Annotated[FilePath, Doc("The certificate's private key, PEM, without a passphrase.")]


class TlsConfig(Section):
    """TLS on the listener for requests."""

    certificates: Annotated[
        list[CertificateConfig],
        Field(min_length=1, max_length=1000),
        Doc(
            "At least one. Which one serves is chosen by the host that the client names (SNI) and the DNS names in "
            "the certificate; the first serves all others."
        ),
    ]
    client_ca_file: Annotated[
        FilePath | None, Doc("Only clients with a certificate of one of these CAs can connect.")
    ] = None
    min_version: Annotated[TlsVersion, Field(strict=False), Doc("The oldest version that is accepted.")] = (
        TlsVersion.TLS_1_2
    )
    handshake_timeout_s: Annotated[Seconds, Doc("Time for a whole handshake.")] = 10.0


class ProxyProtocolConfig(Section):
    """Every connection of the listener for requests begins with a PROXY header."""

    trusted: Annotated[
        list[Cidr],
        Field(min_length=1, max_length=1000),
        Doc("Load balancers (CIDR) that may connect; all other connections are closed."),
    ]
    timeout_s: Annotated[Seconds, Doc("Time for the whole header.")] = 3.0
