"""The two ways in which serving a model goes wrong on purpose: a request or a file that cannot be used."""

from __future__ import annotations

from gateway.core.errors import GatewayError


class RequestError(GatewayError):
    """A request that cannot be answered: `status` is for HTTP, the message says what is wrong and how to fix it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class OverloadedError(RequestError):
    """The bounded queue before the model is full."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=503)


class ModelLoadError(GatewayError):
    """A file that is no model this server can serve; the message says why."""


class FaultError(GatewayError, ValueError):
    """A fault that does not exist, or a value outside its domain."""
