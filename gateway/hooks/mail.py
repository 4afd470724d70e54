"""A transition as an e-mail, and the mail server that takes it.

Rules:

1. A message that is sent again has the same Message-ID; those of a rollout are one thread.
2. Nothing in a header comes from a client or a model: route, rollout and kind have an alphabet of their own.
3. A refusal for good (5xx of MAIL, RCPT or DATA) drops the message; everything else is tried again, a refused login
   too, because the password can be mended meanwhile.
4. smtplib blocks, so it has a thread of its own; where that takes too long, its connection is closed under it.

Sources: RFC 5322 (3.6.4 identification), RFC 3834 (Auto-Submitted), RFC 5321 (4.2.1 reply codes).
"""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP

from gateway.hooks.delivery import NotDeliveredError
from gateway.hooks.envelope import Message, Transition
from gateway.hooks.summary import summary

_AUTHENTICATION = frozenset({530, 534, 535, 538})


def email(transition: Transition, links: str, sender: str, to: Sequence[str]) -> Message:
    """The transition as a message from ``sender``."""
    told, view = summary(transition, links), transition.view
    mail = EmailMessage(policy=SMTP)
    mail["From"], mail["To"] = sender, ", ".join(to)
    mail["Subject"] = f"[canary] {told.headline}"
    mail["Date"] = datetime.fromisoformat(transition.at)
    mail["Message-ID"] = f"<{transition.id}@canary-gateway>"
    mail["References"] = f"<{view.id}@canary-gateway>"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [told.headline, "", *(f"{name}: {value}" for name, value in told.rows)]
    if told.link:
        lines += ["", f"Rollout: {told.link}"]
    mail.set_content("\n".join(lines) + "\n", cte="quoted-printable")
    return Message(transition.id, "message/rfc822", bytes(mail))


class MailServer:
    """A receiver: hands messages to an SMTP server. ``security`` is starttls, tls or none."""

    def __init__(
        self,
        host: str,
        port: int,
        security: str,
        sender: str,
        to: Sequence[str],
        timeout_s: float,
        login: tuple[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._host, self._port, self._security = host, port, security
        self._sender, self._to = sender, list(to)
        self._timeout_s = timeout_s
        self._login = login
        self._context = context or ssl.create_default_context()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mail")

    async def deliver(self, message: Message) -> None:
        """Hand the message over."""
        connection: list[smtplib.SMTP] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.get_running_loop().run_in_executor(self._thread, self._send, message.body, connection)
        except TimeoutError:
            raise NotDeliveredError(f"{self._host} timed out after {self._timeout_s:g} s") from None
        except smtplib.SMTPResponseException as error:
            code = error.smtp_code
            said = (
                error.smtp_error.decode("utf-8", "replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
            )
            raise NotDeliveredError(f"{code} {said}", again=code < 500 or code in _AUTHENTICATION) from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            again = any(code < 500 for code in codes)
            raise NotDeliveredError(f"{self._host} refused all recipients: {codes}", again=again) from None
        except (smtplib.SMTPException, OSError) as error:
            raise NotDeliveredError(f"{type(error).__name__}: {error}") from None
        finally:
            for one in connection:  # what still waits for the server waits no longer
                with contextlib.suppress(OSError):
                    one.close()

    def _send(self, message: bytes, opened: list[smtplib.SMTP]) -> None:
        """On the thread. ``opened`` gets the connection, so that it can be closed from outside."""
        if self._security == "tls":
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                self._host, self._port, timeout=self._timeout_s, context=self._context
            )
        else:
            smtp = smtplib.SMTP(self._host, self._port, timeout=self._timeout_s)
        opened.append(smtp)
        if self._security == "starttls":
            smtp.starttls(context=self._context)
        if self._login is not None:
            smtp.login(*self._login)
        smtp.sendmail(self._sender, self._to, message)
        with contextlib.suppress(smtplib.SMTPException, OSError):  # it has the message
            smtp.quit()
