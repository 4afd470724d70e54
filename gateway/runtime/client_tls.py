"""TLS towards backends: the context for connections to one, renewed when its files change.

Rules:

1. TLS 1.2 at least, verified against ``tls.ca`` or the system's authorities; ALPN offers http/1.1 and nothing else.
2. Files that changed (CA, certificate, key) are read into a new context, which serves the connections that are made
   from then on; those that stand keep theirs, so no request notices.
3. Files that cannot be used change nothing, and the reason is logged once. Where there is nothing to go on with, no
   connection comes about until they can be used: nothing is ever trusted for want of a file.
4. What could not be read is tried again at every `refresh`, also where the files are the same: the want may have been
   the process's own (no descriptors, no memory).
"""

from __future__ import annotations

import logging
import ssl

from gateway.core.traffic.table import BackendTls
from gateway.runtime.file_marks import marks_of

_log = logging.getLogger("gateway.worker")
_ALPN = ["http/1.1"]


class ClientTls:
    """The context for connections to a backend, as fresh as the last `refresh`. ``backend`` is named in the log."""

    def __init__(self, tls: BackendTls | None, backend: str) -> None:
        self._tls = tls
        self._backend = backend
        named = () if tls is None else (tls.ca, tls.certificate, tls.key)
        self._files = [name for name in named if name is not None]
        # Verified against nothing that exists, hence against everything: no connection comes about.
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Why the files could not be used when they were read last; empty when they could.
        self.error = ""
        self._read_once = False
        self._marks = marks_of(self._files)
        self._read("cannot be used")

    @property
    def usable(self) -> bool:
        """Whether connections can be verified: files have been read, be it an earlier state of them."""
        return self._read_once

    def refresh(self) -> None:
        """Take in changed files, if all of them can be used."""
        marks = marks_of(self._files)
        if marks != self._marks or self.error:
            self._marks = marks
            held = "have changed and cannot be used, the previous ones stay in use"
            self._read(held if self._read_once else "cannot be used")

    def _read(self, otherwise: str) -> None:
        try:
            self.context = client_context(self._tls)
        except (OSError, ValueError) as error:
            if str(error) != self.error:
                self.error = str(error)
                _log.error("TLS files of backend %s %s: %s", self._backend, otherwise, error)
        else:
            self.error = ""
            self._read_once = True


def client_context(tls: BackendTls | None) -> ssl.SSLContext:
    """A new context. Raises OSError (ssl.SSLError among them) or ValueError when a file cannot be used."""
    context = ssl.create_default_context(cafile=tls.ca if tls is not None else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    if tls is not None and tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key, password=no_passphrase)
    return context


def no_passphrase() -> str:
    """Without this OpenSSL would ask for one on the terminal."""
    raise ValueError("the key has a passphrase")
