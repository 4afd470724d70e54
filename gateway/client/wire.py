"""Between calls and HTTP: what every request carries, and what an answer means. Shared by both clients; no I/O."""

from __future__ import annotations

import contextlib
import getpass
import json
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from gateway.client.calls import Call
from gateway.client.decode import converted
from gateway.client.errors import ApiError, UnauthorizedError, UnexpectedAnswerError, UnreachableError, by_status
from gateway.runtime.loopback import is_loopback

T = TypeVar("T")
DEFAULT_URL = "http://127.0.0.1:9900"
TIMEOUT_S = 10.0
_SAME_VERSION = "check that --url is the admin address of a gateway of this version"


class Wire:
    """How one gateway is spoken to. ``actor`` is who asks, by default the operator's name."""

    def __init__(self, url: str, token: str | None, timeout_s: float, actor: str | None) -> None:
        self.url = url.rstrip("/")
        self.socket = urlsplit(url).path if url.startswith("unix:") else None
        # What is asked on a socket needs a host all the same: the one that the gateway knows as this machine.
        self.base = self.url if self.socket is None else "http://localhost"
        self.headers = {"x-actor": _user() if actor is None else actor}
        if token:
            self.headers["authorization"] = f"Bearer {token}"
        # A proxy that the environment names is of no use for an address of this machine.
        self.trust_env = self.socket is None and not is_loopback(url)
        # To load the authorities takes longer than most requests; plain HTTP on this machine needs none.
        self.verify = self.trust_env or self.base.startswith("https:")
        self.timeout_s = timeout_s
        self._token = token

    def request(self, call: Call[Any]) -> dict[str, Any]:
        """The arguments of httpx's ``request``."""
        body = call.body
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        kind = {} if content is None else {"content-type": "application/json"}
        return {
            "method": call.method,
            "url": f"{self.base}{call.full_path}",
            "params": call.params,
            "content": content,
            "headers": kind | dict(call.headers),
            "timeout": self.timeout_s + call.more_s,
        }

    def check(self, call: Call[Any], answer: httpx.Response) -> httpx.Response:
        """The answer, unless it is a refusal: that is raised."""
        if not answer.is_success and answer.status_code not in call.accepted:
            raise self.refusal(answer)
        return answer

    def read(self, answer: httpx.Response, kind: type[T]) -> T:
        """The answer as a value of the API."""
        try:
            return converted(kind, json.loads(answer.content or b"null"))
        except (ValueError, RecursionError):
            raise self.unexpected() from None

    def unexpected(self, said: str = "") -> UnexpectedAnswerError:
        """What answers is no gateway of this version."""
        return UnexpectedAnswerError(f"unexpected answer from {self.url}{said}: {_SAME_VERSION}")

    def failure(self, error: httpx.HTTPError | httpx.InvalidURL) -> ApiError:
        """What httpx raised, as one of ours."""
        if isinstance(error, httpx.TimeoutException):
            return UnreachableError(f"the gateway at {self.url} did not answer in time")
        return UnreachableError(
            f"cannot reach the gateway at {self.url} ({error}): start one with `gateway serve CONFIG`,"
            " or give its admin address with --url or GATEWAY_URL"
        )

    def refusal(self, answer: httpx.Response) -> ApiError:
        """What a status that is no success means."""
        if answer.status_code == 401:
            what = "rejected this token: give a valid one" if self._token else "requires a token: give one"
            return UnauthorizedError(f"the gateway at {self.url} {what} with --token or GATEWAY_TOKEN", 401)
        kind = by_status(answer.status_code)
        try:
            problem = json.loads(answer.content)
            if answer.status_code == 503 and "reasons" in problem:
                return kind(f"the gateway is not ready: {'; '.join(problem['reasons'])}", 503)
            slug = str(problem.get("type", "")).rpartition(":")[2]
            return kind(f"{problem['title']}: {problem['detail']}", answer.status_code, slug)
        except (ValueError, KeyError, TypeError, AttributeError):
            error = self.unexpected(f" ({answer.status_code} {answer.reason_phrase})")
            # A proxy in between answers for a gateway that is away: one who waits asks again.
            return kind(str(error), answer.status_code) if kind.passing else error


def _user() -> str:
    """The operator's name, for the journal."""
    with contextlib.suppress(Exception):  # no name in the environment, none in the password database
        return "".join(char for char in getpass.getuser() if " " < char <= "~")
    return ""
