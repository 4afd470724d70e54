"""The commands' side of the admin API: typed answers, or one line that says what is wrong and how to mend it."""

from __future__ import annotations

import contextlib
import getpass
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import httpx
import msgspec

from gateway.admin.bodies import RolloutBody, RolloutList, RouteList, encode
from gateway.control.views import RouteView

T = TypeVar("T")
DEFAULT_URL = "http://127.0.0.1:9900"
TIMEOUT_S = 10.0
_SAME_VERSION = "is it the admin address of a gateway of this version? See --url"


class Refused(click.ClickException):
    """The gateway refused, or cannot be reached. ``status`` is the HTTP status of the refusal, None without one."""

    exit_code = 1

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(one_line(message))


class Client:
    """The API of one gateway. Every method raises `Refused`."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url.rstrip("/")
        headers = {"x-actor": _user()}
        if token:
            headers["authorization"] = f"Bearer {token}"
        # A proxy that the environment names is of no use for an address of this machine.
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT_S, trust_env=not is_loopback(url))
        self._token = token

    def routes(self) -> tuple[RouteView, ...]:
        """All routes."""
        return self._ask("GET", "/routes", RouteList).routes

    def route(self, name: str) -> RouteView:
        """One route."""
        return self._ask("GET", f"/routes/{name}", RouteView)

    def set_weight(self, name: str, percent: float) -> RouteView:
        """Set a canary share."""
        return self._ask("PUT", f"/routes/{name}/weight", RouteView, {"canary_percent": percent})

    def start(self, route: str, wish: Any) -> RolloutBody:
        """Start a rollout."""
        return self._ask("POST", f"/routes/{route}/rollouts", RolloutBody, wish)

    def rollouts(self, route: str | None, limit: int) -> RolloutList:
        """The newest rollouts."""
        asked: dict[str, Any] = {"limit": limit} | ({"route": route} if route else {})
        return self._ask("GET", "/rollouts", RolloutList, params=asked)

    def rollout(self, rollout_id: str) -> RolloutBody:
        """One rollout."""
        return self._ask("GET", f"/rollouts/{rollout_id}", RolloutBody)

    def decide(self, rollout_id: str, verb: str, reason: str) -> RolloutBody:
        """Pause, resume, promote or abort."""
        return self._ask("POST", f"/rollouts/{rollout_id}/{verb}", RolloutBody, {"reason": reason} if reason else None)

    def find(self, name: str) -> RolloutBody:
        """The rollout with this id, or the latest one of the route with this name."""
        try:
            return self.rollout(name)
        except Refused as refusal:
            if refusal.status != 404:
                raise
        try:
            latest = self.rollouts(name, 1).rollouts
        except Refused as refusal:
            if refusal.status != 404:
                raise
            raise Refused(f"there is neither a rollout nor a route {name!r}; see: gateway rollout list") from None
        if not latest:
            raise Refused(f"route {name} has had no rollout; start one with: gateway rollout start {name}")
        return latest[0]

    def _ask(self, method: str, path: str, kind: type[T], wish: Any = None, params: Any = None) -> T:
        content = None if wish is None else encode(wish)
        headers = None if wish is None else {"content-type": "application/json"}
        url = f"{self._url}/api/v1{path}"
        try:
            answer = self._http.request(method, url, params=params, content=content, headers=headers)
        except httpx.TimeoutException:
            raise Refused(f"the gateway at {self._url} does not answer within {TIMEOUT_S:g} s") from None
        except httpx.TransportError as error:
            raise Refused(
                f"cannot reach the gateway at {self._url} ({error}): start one with `gateway serve CONFIG`,"
                " or give its admin address with --url or GATEWAY_URL"
            ) from None
        if not answer.is_success:
            raise self._refusal(answer)
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Refused(f"{self._url} does not answer as a gateway does: {_SAME_VERSION}") from None

    def _refusal(self, answer: httpx.Response) -> Refused:
        if answer.status_code == 401:
            what = "refuses this token: give the right one" if self._token else "wants a token: give it"
            return Refused(f"the gateway at {self._url} {what} with --token or GATEWAY_TOKEN", 401)
        try:
            problem = msgspec.json.decode(answer.content, type=dict[str, Any])
            return Refused(f"{problem['title']}: {problem['detail']}", answer.status_code)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            said = f"{answer.status_code} {answer.reason_phrase}"
            return Refused(f"{self._url} answers {said}, not as a gateway does: {_SAME_VERSION}")


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def one_line(text: str) -> str:
    """The text without anything that could steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _user() -> str:
    """The operator's name, for the journal."""
    with contextlib.suppress(Exception):  # no name in the environment, none in the password database
        return "".join(char for char in getpass.getuser() if " " < char <= "~")
    return ""
