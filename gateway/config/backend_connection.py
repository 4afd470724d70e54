"""Connections to a backend: its certificate, and when live traffic takes an endpoint out of rotation.

A backend's certificate is always verified, for the endpoint's host unless ``server_name`` says another.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.section import YEAR_S, FilePath, Seconds, Section
from gateway.config.shape import Doc, Noun
from gateway.core.traffic.table import BackendTls, OutlierEjection

_PASSIVE = OutlierEjection()


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
