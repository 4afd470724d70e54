"""TLS towards clients: contexts from files, and their renewal without a dropped connection (backends: client_tls.py).

Rules:

1. TLS 1.2 at least; ALPN offers http/1.1 and nothing else, since nothing else is spoken.
2. Certificates are chosen by the name that the client asks for (SNI); the first one serves all others.
3. Files that changed are read into a new context, which serves the handshakes from then on; connections that stand
   keep theirs. Files that cannot be used change nothing: the old context stays, and the reason is logged once.
"""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path

from gateway.proxy.listen.certificates import Certificate, read_certificate
from gateway.runtime.client_tls import no_passphrase
from gateway.runtime.file_marks import Marks, marks_of
from gateway.runtime.settings import TlsSettings

_log = logging.getLogger("gateway.worker")
_ALPN = ["http/1.1"]
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_EXPIRES_SOON_S = 7 * 86_400


def server_context(settings: TlsSettings) -> tuple[ssl.SSLContext, float]:
    """The context for clients' handshakes, and when the first of its certificates ends (seconds since the epoch).

    Raises OSError (ssl.SSLError among them) or ValueError when a file cannot be used.
    """
    contexts: list[tuple[Certificate, ssl.SSLContext]] = []
    for certificate, key in settings.certificates:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[settings.min_version]
        context.set_alpn_protocols(_ALPN)
        # Renegotiation and compression serve attackers only.
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.load_cert_chain(certificate, key, password=no_passphrase)
        if settings.client_ca is not None:
            context.load_verify_locations(settings.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        contexts.append((read_certificate(Path(certificate)), context))
    first = contexts[0][1]
    if len(contexts) > 1:
        first.sni_callback = _by_name(contexts)
    return first, min(certificate.not_after_s for certificate, _ in contexts)


def _by_name(contexts: list[tuple[Certificate, ssl.SSLContext]]):  # type: ignore[no-untyped-def]  # noqa: ANN202  # ssl types the callback itself
    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        if name:
            for certificate, context in contexts:
                if certificate.fits(name):
                    connection.context = context
                    return

    return choose


class ServerTls:
    """The context for clients, renewed when its files change (`refresh`, called once a second and on SIGHUP)."""

    def __init__(self, settings: TlsSettings) -> None:
        self.handshake_timeout_s = settings.handshake_timeout_s
        self._settings = settings
        self._marks = self._look()
        self.context, self.not_after_s = server_context(settings)
        self.renewals = 0
        self._warn()

    def refresh(self) -> None:
        """Take in changed files, if all of them can be used."""
        marks = self._look()
        if marks == self._marks:
            return
        self._marks = marks
        try:
            self.context, self.not_after_s = server_context(self._settings)
        except (OSError, ValueError) as error:
            _log.error("changed TLS files not loaded, the current certificate stays in use: %s", error)
            return
        self.renewals += 1
        self._warn()

    def _look(self) -> Marks:
        files = [name for pair in self._settings.certificates for name in pair]
        return marks_of(files + ([self._settings.client_ca] if self._settings.client_ca else []))

    def _warn(self) -> None:
        left_s = self.not_after_s - time.time()
        if left_s < _EXPIRES_SOON_S:
            _log.warning("a TLS certificate %s", "has expired" if left_s < 0 else f"expires in {left_s / 3600:.0f} h")
