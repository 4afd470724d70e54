"""The gateway's edges: TLS and PROXY protocol towards clients, TLS, names and passive health towards backends.

Rules:

1. Clients meet TLS 1.2 at least. The first certificate serves clients that name no host, or an unknown one.
2. A PROXY header is believed from its ranges only, and there is no listener that takes it or leaves it.
3. A backend's certificate is always verified, for the endpoint's host unless ``server_name`` says another.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.section import YEAR_S, Cidr, FilePath, Seconds, Section
from gateway.config.shape import Doc, Noun
from gateway.core.traffic.table import BackendTls, OutlierEjection

_PASSIVE = OutlierEjection()


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


class BackendTlsConfig(Section):
    """How a backend's certificate is verified, and what is shown to it."""

    ca_file: Annotated[FilePath | None, Doc("The CAs to verify by, PEM, in place of the system's.")] = None
    cert_file: Annotated[
        FilePath | None, Doc("The certificate chain that is shown to the backend, PEM. Together with `key_file`.")
    ] = None
    key_file: Annotated[FilePath | None, Doc("Its private key, PEM, without a passphrase.")] = None
    server_name: Annotated[
        Annotated[str, AfterValidator(grammar.host_name), Noun("a host name")] | None,
        Doc("The name that the certificate has to be for, and that is sent (SNI), in place of the endpoint's host."),
    ] = None

    core = BackendTls

    def to_core(self) -> dict[str, Any]:
        """Files are what they hold."""
        return {"ca": self.ca_file, "certificate": self.cert_file, "key": self.key_file}


class PassiveConfig(Section):
    """When live traffic takes an endpoint out of its backend's rotation."""

    core = OutlierEjection

    failures: Annotated[
        int,
        Field(ge=1, le=1000),
        Doc(
            "Consecutive failures of the endpoint: refused, timed out, broken off, malformed, or a 5xx "
            "other than 503. A timeout counts as half of this number, so two in a row eject."
        ),
    ] = _PASSIVE.failures
    base_s: Annotated[
        Seconds,
        Doc(
            "How long the first ejection lasts; each that follows soon lasts twice as long. Then one request is the "
            "endpoint's trial."
        ),
    ] = _PASSIVE.base_s
    max_s: Annotated[Seconds, Doc("The longest ejection.")] = _PASSIVE.max_s
    ejected_percent_max: Annotated[
        float,
        Field(ge=0, le=100),
        Noun("a percentage"),
        Doc(
            "Share of the backend's endpoints that may be out at once, rounded up (two of three). One may always be. "
            "The last one that is neither out nor down is never ejected."
        ),
    ] = _PASSIVE.ejected_percent_max
    slow_start_s: Annotated[
        float,
        Field(ge=0, le=YEAR_S),
        Noun("a number of seconds"),
        Doc("How long an endpoint that is back gets a growing share of its requests."),
    ] = _PASSIVE.slow_start_s
