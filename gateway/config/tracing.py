"""The section ``tracing``: where spans go, and which requests have some. Needs the extra ``otel``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Annotated

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.errors import BadValue, Issue, issues_in
from gateway.config.secret_values import variable
from gateway.config.section import EnvironmentName, Section, Share
from gateway.config.shape import Doc, Noun
from gateway.runtime.settings import TracingSettings

_DEFAULT = TracingSettings()
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([\x21-\x7e]*)")


class TracingConfig(Section):
    """OpenTelemetry traces over OTLP."""

    core = TracingSettings

    endpoint: Annotated[
        Annotated[str, AfterValidator(grammar.web_url), Noun("an http(s) URL")],
        Doc("Where spans are posted (OTLP over HTTP, protobuf), such as `http://127.0.0.1:4318/v1/traces`."),
    ]
    sample: Annotated[
        Share,
        Doc(
            "Share of requests without a `traceparent` that is traced. With one, its sampled flag decides. Rescued "
            "requests and answers of 5xx are exported in any case."
        ),
    ] = _DEFAULT.sample
    headers_env: Annotated[
        EnvironmentName | None,
        Doc(
            "Environment variable with header fields for the receiver, such as `authorization=Bearer%20...,x-team=ml`."
        ),
    ] = None
    service_name: Annotated[
        Annotated[str, Field(min_length=1, max_length=128)], Doc("The resource attribute `service.name`.")
    ] = "canary-gateway"
    queue_max: Annotated[
        int,
        Field(ge=1, le=1_000_000),
        Doc("Requests of each worker whose spans may wait; more are dropped and counted. Requests never wait."),
    ] = _DEFAULT.queue_max


def otlp_headers(tracing: TracingConfig, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header fields for the receiver. Raises BadValue when they cannot be had."""
    if tracing.headers_env is None:
        return {}
    found = {}
    for part in variable(tracing.headers_env, environ).split(","):
        pair = _HEADER.fullmatch(part.strip())
        if pair is None:  # not shown: it may be a secret
            raise BadValue(f"{tracing.headers_env} is not a list of NAME=VALUE", "separate them by commas")
        found[pair[1].lower()] = pair[2].replace("%20", " ")
    return found


def tracing_issues(tracing: TracingConfig | None, environ: Mapping[str, str]) -> Iterator[Issue]:
    """What is wrong with what the section has outside the file."""
    if tracing is None:
        return
    yield from issues_in(("tracing", "headers_env"), partial(otlp_headers, tracing, environ))
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        hint = "install it: pip install 'canary-gateway[otel]'"
        yield Issue(("tracing",), "OpenTelemetry's SDK is not installed", hint, at_key=True)
