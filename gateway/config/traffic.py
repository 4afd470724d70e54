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
from gateway.config.shape import Noun
from gateway.core.traffic.table import Backend, Timeouts

_STDOUT = "-"
_STATUS = re.compile(r"[45](?:[0-9]{2}|xx)")
# These have a meaning of their own, or are the protocol's.
_NEVER_UPGRADED = frozenset({"h2c", "h2", "http", "http/1.1", "http/2.0", "tls", "tls/1.0"})
HOST_HEADER: str = Backend(name="", endpoints=()).host_header


class Underscores(enum.StrEnum):
    """What becomes of a header field whose name holds an underscore."""

    REJECT = "reject"
    DROP = "drop"
    PASS = "pass"  # noqa: S105  # a word of the configuration, no password


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
FailedStatus = Annotated[str, BeforeValidator(_status), Noun("a status from 400 to 599, or 4xx or 5xx")]
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

    via: Pseudonym | None = "canary-gateway"
    forwarded: bool = False
    underscores: Annotated[Underscores, Field(strict=False)] = Underscores.REJECT
    request_id: HeaderName | None = "x-request-id"
    traceparent: Annotated[Traceparent, Field(strict=False)] = Traceparent.MAKE


class AccessLogConfig(Section):
    """Where request lines go and which of them."""

    path: LogPath | None = None
    sample: Share = 1.0
    failures: bool = True
    query: bool = False
    queue_bytes_max: Annotated[int, Field(ge=4096, le=1 << 30), Noun("a number of bytes")] = 4 << 20
