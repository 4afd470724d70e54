"""The section ``admin``: the control plane's own listener, who may use it, and which backends it may add.

Rules:

1. A token is kept as its SHA-256 (``sha256``), or comes from the environment or a file and is hashed when it is read;
   tokens are long random text, so a slow hash would add nothing.
2. Scopes contain each other: ``admin`` may do all, ``operate`` what a rollout needs and everything that ``read`` may.
3. A client's certificate proves a name; what the name may do is said in ``tls.clients``, not by the certificate.
"""

from __future__ import annotations

import enum
import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf

from gateway.config import grammar
from gateway.config.errors import BadValue, show
from gateway.config.grammar import Address, Network
from gateway.config.section import DEFAULT_ADMIN, AdminAddress, EnvironmentName, FilePath, Section
from gateway.config.shape import Doc, Noun
from gateway.core.traffic.addresses import AllowedBackend

TOKENS_MAX = 100
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@ -]{0,62}")


class Scope(enum.StrEnum):
    """What a principal may do; each contains those before it."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    @property
    def implies(self) -> frozenset[Scope]:
        """This scope and all that it contains."""
        members = list(Scope)
        return frozenset(members[: members.index(self) + 1])


def allowed_backend(text: str) -> AllowedBackend:
    """``10.0.0.0/8``, ``models.example`` or ``*.svc.cluster.local``."""
    below = text.removeprefix("*.")
    try:
        ip_address(text)
    except ValueError:
        if "/" not in text and ":" not in text:
            return AllowedBackend(("*." if below != text else "") + grammar.host_name(below))
    if re.fullmatch(r"[^:/]+:[0-9]+", text):
        raise BadValue(f"{show(text)} has a port", "use the host or the range alone: all its ports are allowed")
    found: Network = grammar.network(text)
    return AllowedBackend(str(found), found)


def _sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        # Not shown: it may be the token itself.
        raise BadValue("this is not a SHA-256 in hexadecimal", "make a token and its hash with: gateway token new")
    return text.lower()


def principal_name(text: str) -> str:
    """Who holds a token or a certificate, as the audit trail shows it."""
    if not _PRINCIPAL.fullmatch(text):
        hint = "use up to 63 letters, digits, spaces and . _ @ - that begin with a letter or digit"
        raise BadValue(f"{show(text)} cannot be shown in the audit trail", hint)
    return text


PrincipalName = Annotated[str, AfterValidator(principal_name), Noun("a name")]
Sha256 = Annotated[str, AfterValidator(_sha256), Noun("a SHA-256 in hexadecimal")]
Scopes = Annotated[list[Annotated[Scope, Field(strict=False)]], Field(min_length=1, max_length=len(Scope))]
AllowedBackendText = Annotated[
    InstanceOf[AllowedBackend],
    BeforeValidator(grammar.parsed_by(allowed_backend, AllowedBackend)),
    Noun("an address range or a host name"),
]


class TokenConfig(Section):
    """One bearer token: who holds it, what it may do, and exactly one of the ways to know it."""

    name: Annotated[PrincipalName, Doc("Who holds it: the audit trail and the journal name it. Unique.")]
    scopes: Annotated[
        Scopes,
        Doc(
            "What it may do: `read` sees everything, `operate` also steers rollouts and weights, `admin` also changes "
            "the configuration."
        ),
    ]
    sha256: Annotated[
        Sha256 | None,
        Doc("The token's hash; `gateway token new` makes both. Exactly one of `sha256`, `env` and `file`."),
    ] = None
    env: Annotated[
        EnvironmentName | None, Doc("Name of the environment variable that holds the token, as `token_env`.")
    ] = None
    file: Annotated[FilePath | None, Doc("File that holds the token, as `token_file`.")] = None


class ClientConfig(Section):
    """What the holder of a client certificate with this common name may do."""

    name: Annotated[PrincipalName, Doc("The common name in the certificate's subject. Unique.")]
    scopes: Annotated[Scopes, Doc("As `admin.tokens[].scopes`.")]


class AdminTlsConfig(Section):
    """TLS on the admin listener; with ``client_ca_file`` only clients with a certificate of that CA get in."""

    cert_file: Annotated[FilePath, Doc("The certificate chain, PEM.")]
    key_file: Annotated[FilePath, Doc("The certificate's private key, PEM, without a passphrase.")]
    client_ca_file: Annotated[
        FilePath | None,
        Doc(
            "Only clients with a certificate of one of these CAs are accepted. They still need a token, unless "
            "`clients` names them."
        ),
    ] = None
    clients: Annotated[
        list[ClientConfig],
        Field(max_length=TOKENS_MAX),
        Doc("What the holder of a client certificate may do without a token."),
    ] = []


class AdminConfig(Section):
    """The control plane's own listener."""

    listen: Annotated[
        AdminAddress,
        Doc(
            "Like `listen`; any address that is not loopback requires a token. Or a Unix socket "
            "(`unix:/run/gateway.sock`, absolute, 103 bytes at most) that this user alone may open, without TLS."
        ),
    ] = DEFAULT_ADMIN
    token_env: Annotated[
        EnvironmentName | None,
        Doc(
            "Name of the environment variable that holds the bearer token, 16 characters or more. Not together with "
            "`token_file`."
        ),
    ] = None
    token_file: Annotated[
        FilePath | None,
        Doc("File that holds the bearer token; white space around it is ignored. Relative to the configuration file."),
    ] = None
    tokens: Annotated[
        list[TokenConfig],
        Field(max_length=TOKENS_MAX),
        Doc(
            "Further bearer tokens, each with its own name and scopes. `token_env` and `token_file` give one token "
            "with all scopes."
        ),
    ] = []
    tls: Annotated[AdminTlsConfig | None, Doc("TLS on the admin listener. `null`: plain HTTP.")] = None
    backend_allow: Annotated[
        list[AllowedBackendText],
        Field(max_length=1000),
        Doc(
            "Where backends may be that come in over the API: `10.0.0.0/8`, `models.example`, `*.svc.cluster.local`. "
            "What this file names is always allowed; see docs/security.md."
        ),
    ] = []
    unready_without_stable: Annotated[
        bool,
        Doc(
            "Whether `/readyz` answers 503 while probes find every endpoint of some route's stable backend down. "
            "`false`: such a route is a warning there, and the others stay in the load balancer."
        ),
    ] = False
    public_url: Annotated[
        Annotated[str, AfterValidator(grammar.web_url), Noun("an http(s) URL")] | None,
        Doc(
            "Where people reach this listener, such as `https://gateway.example.org`, if not at `listen` itself: "
            "messages of hooks lead to the rollout in the console there."
        ),
    ] = None
    connections_max: Annotated[
        int,
        Field(ge=4, le=10_000),
        Doc(
            "Open connections of the admin listener, and never more than a quarter of the descriptors that the "
            "process may have. One more replaces the one that has been idle longest."
        ),
    ] = 256


def public_url(admin: AdminConfig) -> str:
    """Where people reach the admin listener, without a slash at the end; empty where that cannot be known."""
    if admin.public_url is not None:
        return admin.public_url.rstrip("/")
    listen = admin.listen
    if not isinstance(listen, Address) or not listen.port or listen.host in ("", "0.0.0.0", "::"):  # noqa: S104  # it is recognised here, not listened on
        return ""
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"{'http' if admin.tls is None else 'https'}://{host}:{listen.port}"
