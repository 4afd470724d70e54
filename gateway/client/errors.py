"""What can go wrong between a client and the admin API: exceptions by kind, each with one line that says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.errors import GatewayError

if TYPE_CHECKING:
    from gateway.api_types import RolloutBody


class ApiError(GatewayError):
    """Root of them all. ``status`` is the HTTP status, None without an answer; ``problem`` the problem's name."""

    # Whether the same request may succeed a moment later, so that one who waits asks again.
    passing = False

    def __init__(self, message: str, status: int | None = None, problem: str = "") -> None:
        self.status = status
        self.problem = problem
        super().__init__(one_line(message))


class UnreachableError(ApiError):
    """No answer: nothing listens there, the connection broke, or it took too long."""

    passing = True


class UnauthorizedError(ApiError):
    """The token is missing or not valid (401)."""


class ForbiddenError(ApiError):
    """The token does not have the scope (403)."""


class UnknownNameError(ApiError):
    """No route, rollout or backend has this name (404)."""


class RefusedError(ApiError):
    """Not possible in the present state (409), such as a second start while the first one runs."""


class ChangedMeanwhileError(ApiError):
    """It is no longer what the request was about (412)."""


class InvalidRequestError(ApiError):
    """A value of the request is wrong (other 4xx)."""


class TooManyRequestsError(ApiError):
    """Too many wait already, or too many requests failed to authenticate (429)."""

    passing = True


class GatewayFailedError(ApiError):
    """The gateway, or a proxy before it, could not answer (5xx)."""

    passing = True


class UnexpectedAnswerError(ApiError):
    """What answers is no gateway, or one of another version."""


class WaitTimeoutError(ApiError):
    """A rollout had not ended in time; ``rollout`` is its last known state. It goes on."""

    def __init__(self, rollout: RolloutBody, timeout_s: float) -> None:
        self.rollout = rollout
        super().__init__(
            f"rollout {rollout.id} has not ended within {timeout_s:g} s: {rollout.phase} at"
            f" {rollout.canary_percent:g} %: {rollout.reason}"
        )


_BY_STATUS: dict[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: UnknownNameError,
    409: RefusedError,
    412: ChangedMeanwhileError,
    429: TooManyRequestsError,
}


def by_status(status: int) -> type[ApiError]:
    """The exception for an HTTP status that is no success."""
    if status >= 500:
        return GatewayFailedError
    return _BY_STATUS.get(status, InvalidRequestError if status >= 400 else UnexpectedAnswerError)


def one_line(text: str) -> str:
    """The text without anything that could steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
