"""The configuration file: strict decode, every error at once with its place and hint, then the core's values."""

from __future__ import annotations

from gateway.config.build import analysis_spec, endpoints_of, guarded, plan, routing_table
from gateway.config.errors import ConfigError, LocatedIssue
from gateway.config.host_checks import Key, admin_keys, admin_tls, admin_token
from gateway.config.load import load, load_elsewhere, read, reload
from gateway.config.routes import RouteConfig
from gateway.config.schema import GatewayConfig

__all__ = [
    "ConfigError",
    "GatewayConfig",
    "Key",
    "LocatedIssue",
    "RouteConfig",
    "admin_keys",
    "admin_tls",
    "admin_token",
    "analysis_spec",
    "endpoints_of",
    "guarded",
    "load",
    "load_elsewhere",
    "plan",
    "read",
    "reload",
    "routing_table",
]
