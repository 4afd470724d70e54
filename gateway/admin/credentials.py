"""What lets in, read again when its files change: the tokens' files, the listener's certificate, key and CA.

Rules:

1. Files are looked at once a second. What has changed serves the next request and the next handshake; connections that
   stand are not touched.
2. New files that cannot be used change nothing: what was read last stays in force, and an alarm says so until they can.
   So a token's file that is gone takes no token back, and files that are replaced one after the other do no harm.
3. A control process that is started again reads the files, too. Where they cannot be used then, it uses the tokens
   that the gateway was started with; without a certificate that fits no handshake succeeds until there is one.

Renewal of TLS: the listener's context never changes; its callback hands each handshake on to the newest context.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence

from gateway.admin.principals import Keyring
from gateway.config.admin import AdminConfig, AdminTlsConfig
from gateway.config.errors import BadValue
from gateway.config.host_checks import Key, admin_keys, admin_tls
from gateway.runtime.file_marks import Marks, marks_of

_log = logging.getLogger("gateway.control")
LOOK_S = 1.0


class Credentials:
    """The keyring and the TLS context of the admin listener, as fresh as their files.

    ``alarm`` is given an alarm's name and why it stands, the empty text when it does not.
    """

    def __init__(
        self, admin: AdminConfig, keys: Sequence[Key], environ: Mapping[str, str], alarm: Callable[[str, str], None]
    ) -> None:
        self._admin = admin
        self._environ = environ
        self._alarm = alarm
        tls = admin.tls
        self.keyring = Keyring(keys, () if tls is None else tls.clients)
        self._newest: ssl.SSLContext | None = None
        self.context = None if tls is None else self._outer(tls)
        self._token_files = [path for path in (admin.token_file, *(t.file for t in admin.tokens)) if path is not None]
        self._tls_files = [] if tls is None else [tls.cert_file, tls.key_file]
        if tls is not None and tls.client_ca_file is not None:
            self._tls_files.append(tls.client_ca_file)
        self.read = asyncio.Event()
        self._token_marks: Marks = ()
        self._tls_marks: Marks = ()

    async def run(self) -> None:
        """Look for ever; ``read`` is set when that has been done once."""
        while True:
            await asyncio.to_thread(self.look)
            self.read.set()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Take in what has changed. Reads files."""
        # Marked before they are read: what changes meanwhile is read once more.
        if (marks := marks_of(self._token_files)) != self._token_marks:
            self._token_marks = marks
            self._take("admin tokens", self._read_tokens)
        if (marks := marks_of(self._tls_files)) != self._tls_marks:
            self._tls_marks = marks
            self._take("admin certificate", self._read_tls)

    def _take(self, what: str, read: Callable[[], None]) -> None:
        try:
            read()
        except BadValue as bad:
            why = f"the changed files cannot be used, the previous ones stay in use: {bad.problem}; {bad.hint}"
            self._alarm(what, f"{what}: {why}")
        else:
            self._alarm(what, "")

    def _read_tokens(self) -> None:
        if self.keyring.replace(admin_keys(self._admin, self._environ)):
            _log.warning("admin listener: tokens reloaded")

    def _read_tls(self) -> None:
        assert self._admin.tls is not None  # its files are looked at
        renewed = self._newest is not None
        self._newest = admin_tls(self._admin.tls)
        if renewed:
            _log.warning("admin listener: certificate reloaded")

    def _outer(self, tls: AdminTlsConfig) -> ssl.SSLContext:
        def hand_on(connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext) -> int | None:
            if self._newest is None:
                return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
            connection.context = self._newest
            return None

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Whether a certificate is asked for is the connection's own; the authorities are the newest context's.
        context.verify_mode = ssl.CERT_NONE if tls.client_ca_file is None else ssl.CERT_REQUIRED
        # A session that was begun under an older context would be taken up without a look at the certificate.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.sni_callback = hand_on
        return context
