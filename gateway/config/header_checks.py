"""Whether the values of header fields that backends get can be had: from the environment, and from files.

Rules:

1. Where requests are served from, variables are set and files can be read before a configuration is in force.
2. A backend that came over the API gets no value from either: who may name a backend and a file could have any file of
   this machine sent anywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

from gateway.config.backends import SetHeaderConfig
from gateway.config.core_values import core_value
from gateway.config.errors import BadValue, Issue, TreePath, issues_in
from gateway.config.schema import GatewayConfig
from gateway.core.traffic.table import SetHeader
from gateway.runtime.header_values import HeaderValueError, header_value


def header_issues(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Issue]:
    """What keeps values from being read (rule 1)."""
    for path, header in _headers(config, config.backends):
        key = "value_env" if header.value_env is not None else "value_file"
        yield from issues_in((*path, key), partial(_readable, header, environ))


def secrets_of_the_api(config: GatewayConfig, names: Collection[str]) -> Iterator[Issue]:
    """What these backends, of the API, must not name (rule 2)."""
    for path, header in _headers(config, names):
        for key in ("value_env", "value_file"):
            if getattr(header, key) is not None:
                hint = "set the backend in the configuration file, or use value"
                yield Issue((*path, key), "cannot be set over the API", hint)


def _headers(config: GatewayConfig, names: Collection[str]) -> Iterator[tuple[TreePath, SetHeaderConfig]]:
    for name in names:
        request = config.backends[name].request
        for index, header in enumerate(request.set_headers if request else ()):
            yield ("backends", name, "request", "set_headers", index), header


def _readable(header: SetHeaderConfig, environ: Mapping[str, str]) -> None:
    try:
        header_value(core_value(header, SetHeader), environ)
    except HeaderValueError as error:
        raise BadValue(str(error), error.hint) from None
