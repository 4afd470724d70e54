"""Receivers of hooks that reach people: PagerDuty and e-mail. A section of a hook each, in place of its URL.

Keys and passwords come from the environment or a file, as all secrets do (secret_values.py).
"""

from __future__ import annotations

import enum
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf

from gateway.config import grammar
from gateway.config.errors import BadValue, show
from gateway.config.grammar import Address
from gateway.config.section import EnvironmentName, FilePath, Section
from gateway.config.shape import Doc, Noun

PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
_MAIL_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class SmtpSecurity(enum.StrEnum):
    """How the connection to a mail server is protected."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


_mail_address = grammar.matching(_MAIL_ADDRESS, "is not an e-mail address", "write NAME@DOMAIN, without a display name")


def _server(text: str) -> Address:
    found = grammar.address(text)
    if not found.host or not found.port:
        raise BadValue(f"{show(text)} is not a server's address", "write HOST:PORT, such as smtp.example.org:587")
    return found


WebhookUrl = Annotated[str, AfterValidator(grammar.web_url), Noun("an http(s) URL")]
MailAddress = Annotated[str, AfterValidator(_mail_address), Noun("an e-mail address")]
SmtpServer = Annotated[InstanceOf[Address], BeforeValidator(grammar.parsed_by(_server, Address)), Noun("host:port")]


class PagerDutyConfig(Section):
    """A service of PagerDuty, by its integration key."""

    routing_key_env: Annotated[
        EnvironmentName | None,
        Doc("Environment variable with the integration key of an Events API v2 integration. Exactly one of the two."),
    ] = None
    routing_key_file: Annotated[FilePath | None, Doc("File with the integration key.")] = None
    url: Annotated[WebhookUrl, Doc("Where events are posted; PagerDuty's EU region has an address of its own.")] = (
        PAGERDUTY_URL
    )


class EmailConfig(Section):
    """A mail server, and who gets a message."""

    server: Annotated[SmtpServer, Doc("The mail server (SMTP), such as `smtp.example.org:587`.")]
    security: Annotated[
        SmtpSecurity,
        Field(strict=False),
        Doc("`starttls` (usually port 587), `tls` from the first byte (465), or `none`, for a relay on this host."),
    ] = SmtpSecurity.STARTTLS
    sender: Annotated[MailAddress, Doc("The address in From.")]
    to: Annotated[Annotated[list[MailAddress], Field(min_length=1, max_length=50)], Doc("Who gets the message.")]
    username: Annotated[
        Annotated[str, Field(min_length=1, max_length=256)] | None, Doc("User name at the server; `null`: no login.")
    ] = None
    password_env: Annotated[EnvironmentName | None, Doc("Environment variable with the password of `username`.")] = None
    password_file: Annotated[FilePath | None, Doc("File with the password. Not together with `password_env`.")] = None
