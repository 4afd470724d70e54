"""What the control process and the workers get at their start, derived from the configuration."""

from __future__ import annotations

from pathlib import Path

import msgspec

import gateway
from gateway.config.build import routing_table
from gateway.config.core_values import core_value
from gateway.config.host_checks import Key
from gateway.config.listener import TlsConfig
from gateway.config.schema import GatewayConfig
from gateway.config.tracing import TracingConfig, otlp_headers
from gateway.runtime.notices import Notice
from gateway.runtime.settings import (
    AccessLogSettings,
    ExporterSettings,
    HeaderPolicy,
    Limits,
    ProxyProtocolSettings,
    TlsSettings,
    TracingSettings,
    WorkerSettings,
)
from gateway.runtime.spans import SOCKET_NAME


class ControlSettings(msgspec.Struct, frozen=True):
    """What the control process gets at its start.

    The configuration comes as the text that was checked when the gateway started: a control process that is started
    again must not meet another file, or half a one.
    """

    config_path: str
    config_text: bytes
    keys: tuple[Key, ...]
    own_addresses: tuple[tuple[str, int], ...]
    control_path: str
    admin_fd: int
    notices_fd: int
    memory_fds: tuple[int, int]
    notice: Notice = Notice()
    # What the state directory was found to have lost when the gateway started.
    state_lost: str = ""


def worker_settings(
    config: GatewayConfig,
    config_sha256: str,
    index: int,
    listen_fd: int,
    control_path: str,
    memory_fds: tuple[int, int],
) -> WorkerSettings:
    """Of worker ``index``. Its table sends everything to stable until control brings the one in force."""
    tls, proxy = config.tls, config.proxy_protocol
    return WorkerSettings(
        index=index,
        listen_fd=listen_fd,
        control_path=control_path,
        workers=config.workers,
        table=routing_table(config, epoch=0).stable_only(),
        config_sha256=config_sha256,
        memory_fds=memory_fds,
        limits=core_value(config.limits, Limits),
        trusted_proxies=tuple(str(network) for network in config.trusted_proxies),
        headers=_headers(config),
        access_log=core_value(config.access_log, AccessLogSettings),
        tracing=None if config.tracing is None else core_value(config.tracing, TracingSettings),
        tls=None if tls is None else _tls_settings(tls),
        proxy_protocol=(
            None
            if proxy is None
            else ProxyProtocolSettings(tuple(str(network) for network in proxy.trusted), proxy.timeout_s)
        ),
    )


def exporter_settings(tracing: TracingConfig, directory: Path) -> ExporterSettings:
    """Of the exporter of traces."""
    return ExporterSettings(
        path=str(directory / SOCKET_NAME),
        endpoint=tracing.endpoint,
        service=tracing.service_name,
        version=gateway.__version__,
        headers=otlp_headers(tracing),
    )


def _headers(config: GatewayConfig) -> HeaderPolicy:
    policy = core_value(config.headers, HeaderPolicy)
    return policy if config.tracing is None else msgspec.structs.replace(policy, traceparent="span")


def _tls_settings(tls: TlsConfig) -> TlsSettings:
    return TlsSettings(
        tuple((str(pair.cert_file), str(pair.key_file)) for pair in tls.certificates),
        None if tls.client_ca_file is None else str(tls.client_ca_file),
        tls.min_version.value,
        tls.handshake_timeout_s,
    )
