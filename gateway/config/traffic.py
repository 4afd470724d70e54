"""The sections ``headers`` and ``access_log``, and what a route or backend says about the exchanges on it."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from gateway.config import grammar
from gateway.config.errors import BadValue, show
from gateway.config.section import HeaderName, Section, Share
from gateway.config.shape import Also, Doc, Noun
from gateway.core.traffic.table import Backend, Timeouts
from gateway.runtime.settings import AccessLogSettings, HeaderPolicy

_STDOUT = "-"
_STATUS = re.compile(r"[45](?:[0-9]{2}|xx)")
# These have a meaning of their own, or are the protocol's.
_NEVER_UPGRADED = frozenset({"h2c", "h2", "http", "http/1.1", "http/2.0", "tls", "tls/1.0"})
_HEADERS = HeaderPolicy()
_LOG = AccessLogSettings()
HOST_HEADER: str = Backend(name="", endpoints=()).host_header


class Underscores(enum.StrEnum):
    """What becomes of a header field whose name holds an underscore."""

    REJECT = "reject"
    DROP = "drop"
    PASS = "pass"  # noqa: S105  # a word of the configuration, no password


class LogFormat(enum.StrEnum):
    """How the processes write their log."""

    TEXT = "text"
    JSON = "json"


class Traceparent(enum.StrEnum):
    """What becomes of a request without a trace."""

    MAKE = "make"
    PASS = "pass"  # noqa: S105  # a word of the configuration, no password


class OnHalfClose(enum.StrEnum):
    """What a client means that ends its sending side; ``auto``: with its request a half-close, later that it left."""

    AUTO = "auto"
    SERVE = "serve"
    ABORT = "abort"


def _pseudonym(text: str) -> str:
    return grammar.token(text, "pseudonym")


def _upgrade(text: str) -> str:
    protocol = grammar.token(text, "protocol").lower()
    if protocol in _NEVER_UPGRADED:
        raise BadValue(f"{show(text)} cannot be tunnelled", "remove it: such requests are served as HTTP/1.1")
    return protocol


def _host_header(text: str) -> str:
    if text in ("client", "endpoint"):
        return text
    authority = grammar.address(text if ":" in text.rpartition("]")[2] else f"{text}:0")
    host = f"[{authority.host}]" if ":" in authority.host else authority.host
    return f"{host}:{authority.port}" if authority.port else host


def _log_path(value: object, info: ValidationInfo) -> str:
    if not isinstance(value, str):
        raise BadValue(f"{show(value)} is not text", "use a path, or '-' for standard output")
    return value if value == _STDOUT else str(Path(info.context or "") / grammar.file_path(value))


def _status(value: object) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or _STATUS.fullmatch(text) is None:
        raise BadValue(f"{show(value)} is not a failure status", "use a number from 400 to 599, 4xx or 5xx")
    return text


Pseudonym = Annotated[str, AfterValidator(_pseudonym), Noun("a name")]
Protocol = Annotated[str, AfterValidator(_upgrade), Noun("a protocol's name")]
HostHeader = Annotated[str, AfterValidator(_host_header), Noun("client, endpoint or a host name")]
FailedStatus = Annotated[
    str,
    BeforeValidator(_status),
    Noun("a status from 400 to 599, 4xx or 5xx"),
    Also({"type": "integer", "minimum": 400, "maximum": 599}),
]
LogPath = Annotated[str, BeforeValidator(_log_path), Noun("a path, or '-'")]


class TimeoutsProfile(enum.StrEnum):
    """Which defaults a route's timeouts have."""

    STANDARD = "standard"
    LLM = "llm"


# A language model may queue a request and read a long prompt before its first token; then tokens come steadily, and an
# answer may go on for as long as it likes.
LLM_TIMEOUTS = Timeouts(connect_s=2.0, first_byte_s=120.0, idle_s=60.0, total_s=1800.0)


class HeadersConfig(Section):
    """What is done with certain header fields."""

    core = HeaderPolicy

    via: Annotated[
        Pseudonym | None,
        Doc(
            "This gateway's name in `Via`. A request that bears it three times is in a loop and gets 508. "
            "`null`: `Via` is passed on unchanged, and loops are not detected."
        ),
    ] = _HEADERS.via
    forwarded: Annotated[bool, Doc("Whether backends get `Forwarded` (RFC 7239) beside `X-Forwarded-*`.")] = (
        _HEADERS.forwarded
    )
    underscores: Annotated[
        Underscores,
        Field(strict=False),
        Doc(
            "Fields with an underscore in their name, which some backends take for a hyphen: refuse the request (400, "
            "which names the field), leave the field out, or pass it on."
        ),
    ] = Underscores(_HEADERS.underscores)
    request_id: Annotated[
        HeaderName | None,
        Doc(
            "Field that names the request, for the backend and in the response: kept from trusted proxies, made "
            "otherwise. `null`: left alone."
        ),
    ] = _HEADERS.request_id
    traceparent: Annotated[
        Traceparent,
        Field(strict=False),
        Doc(
            "W3C trace context: a valid `traceparent` is passed on unchanged, and without one a new trace begins here "
            "(`make`) or none (`pass`)."
        ),
    ] = Traceparent(_HEADERS.traceparent)


class AccessLogConfig(Section):
    """Where request lines go and which of them."""

    core = AccessLogSettings

    path: Annotated[
        LogPath | None,
        Doc(
            "The file to append to, or `-` for standard output. It is opened anew when it was moved away. `null`: no "
            "log."
        ),
    ] = None
    sample: Annotated[Share, Doc("Share of the requests that are logged, drawn independently.")] = _LOG.sample
    failures: Annotated[bool, Doc("Log every failure (5xx, aborted, rescued), whatever the sample.")] = _LOG.failures
    query: Annotated[bool, Doc("Log the query along with the path. Queries may hold what should not be in logs.")] = (
        _LOG.query
    )
    queue_bytes_max: Annotated[
        int,
        Field(ge=4096, le=1 << 30),
        Noun("a number of bytes"),
        Doc("Lines of each worker that may wait to be written; more are dropped and counted. Requests never wait."),
    ] = _LOG.queue_bytes_max
