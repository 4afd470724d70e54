"""A client of the admin API: typed answers, or one line that says what is wrong and how to fix it."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from gateway.admin.schemas import RolloutBody, RolloutList, RouteList, StoryBody, encode
from gateway.control.views import Readiness, RouteView
from gateway.core.errors import GatewayError
from gateway.runtime.loopback import is_loopback

T = TypeVar("T")
DEFAULT_URL = "http://127.0.0.1:9900"
TIMEOUT_S = 10.0
# Shorter than the API would let one wait: proxies between may cut a silent connection.
WAIT_S_MAX = 60.0
_OUTSIDE = frozenset({"/metrics", "/healthz", "/readyz", "/openapi.json"})
_SAME_VERSION = "check that --url is the admin address of a gateway of this version"


class ApiError(GatewayError):
    """The gateway refused, or cannot be reached. ``status`` is the HTTP status of the refusal, None without one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(one_line(message))


class Client:
    """The API of one gateway. Every method raises `ApiError`. ``actor`` is who asks, by default the operator's name."""

    def __init__(
        self, url: str, token: str | None = None, timeout_s: float = TIMEOUT_S, actor: str | None = None
    ) -> None:
        self._url = url.rstrip("/")
        socket = urlsplit(url).path if url.startswith("unix:") else None
        # What is asked on a socket needs a host all the same: the one that auth.py takes for this machine.
        self._base = self._url if socket is None else "http://localhost"
        headers = {"x-actor": _user() if actor is None else actor}
        if token:
            headers["authorization"] = f"Bearer {token}"
        # A proxy that the environment names is of no use for an address of this machine.
        here = socket is not None or is_loopback(url)
        transport = None if socket is None else httpx.HTTPTransport(uds=socket)
        self._http = httpx.Client(headers=headers, timeout=timeout_s, trust_env=not here, transport=transport)
        self._token = token
        self._timeout_s = timeout_s

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def routes(self) -> tuple[RouteView, ...]:
        """All routes."""
        return self._request("GET", "/routes", RouteList).routes

    def route(self, name: str) -> RouteView:
        """One route."""
        return self._request("GET", f"/routes/{name}", RouteView)

    def set_weight(self, name: str, percent: float, reason: str = "") -> RouteView:
        """Set a canary share."""
        body = {"canary_percent": percent} | ({"reason": reason} if reason else {})
        return self._request("PUT", f"/routes/{name}/weight", RouteView, body)

    def start(self, route: str, body: Any) -> RolloutBody:
        """Start a rollout."""
        return self._request("POST", f"/routes/{route}/rollouts", RolloutBody, body)

    def rollouts(self, route: str | None, limit: int) -> RolloutList:
        """The newest rollouts."""
        asked: dict[str, Any] = {"limit": limit} | ({"route": route} if route else {})
        return self._request("GET", "/rollouts", RolloutList, params=asked)

    def rollout(self, rollout_id: str) -> RolloutBody:
        """One rollout."""
        return self._request("GET", f"/rollouts/{rollout_id}", RolloutBody)

    def decide(self, rollout_id: str, verb: str, reason: str, **more: bool) -> RolloutBody:
        """Pause, resume, approve, promote or abort; ``more`` is what a verb knows besides its reason."""
        body = {"reason": reason} | {name: value for name, value in more.items() if value}
        return self._request("POST", f"/rollouts/{rollout_id}/{verb}", RolloutBody, body)

    def changed(self, seen: RolloutBody, wait_s: float) -> RolloutBody:
        """The rollout when something has been decided since it was seen so, or as it is after ``wait_s``."""
        wait_s = max(0.0, min(wait_s, WAIT_S_MAX))
        headers = {"if-none-match": f'"{seen.id}.{seen.revision}"'}
        params = {"wait_s": f"{wait_s:.2f}"}
        answer = self.send("GET", f"/rollouts/{seen.id}", params=params, headers=headers, more_s=wait_s)
        return seen if answer.status_code == 304 else self._read(answer, RolloutBody)

    def decision_history(self, rollout_id: str) -> StoryBody:
        """What was decided on a rollout, and why, from the journal."""
        return self._request("GET", f"/rollouts/{rollout_id}/story", StoryBody)

    def readiness(self) -> Readiness:
        """Whether the gateway can do its work, and why not."""
        return self._read(self.send("GET", "/readyz", accepted=(503,)), Readiness)

    def call(self, method: str, path: str, body: Any = None, params: Any = None) -> Any:
        """Whatever the API has at ``path`` (below /api/v1), as plain values."""
        return self._request(method, path, Any, body, params)

    def plain(self, answer: httpx.Response) -> Any:
        """The JSON of an answer as plain values; None for an empty one."""
        return self._read(answer, Any)

    def events(
        self, after: int | None, silence_s_max: float | None = None, on_open: Callable[[], object] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The stream of events, from the one after ``after`` on, until the gateway ends it.

        ``on_open`` is called when no later event can be missed any more. A stream that is silent for longer than
        ``silence_s_max``, heartbeats included, is an error.
        """
        timeout = httpx.Timeout(self._timeout_s, read=silence_s_max)
        headers = {"accept": "text/event-stream"} | ({} if after is None else {"last-event-id": str(after)})
        try:
            with self._http.stream("GET", f"{self._base}/api/v1/events", headers=headers, timeout=timeout) as answer:
                if not answer.is_success:
                    answer.read()
                    raise self._refusal(answer)
                for line in answer.iter_lines():
                    if on_open is not None:
                        on_open()
                    if line.startswith("data:"):
                        yield msgspec.json.decode(line[5:], type=dict[str, Any])
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        except msgspec.DecodeError:
            raise ApiError(f"unexpected answer from {self._url}: {_SAME_VERSION}") from None

    def find(self, name: str) -> RolloutBody:
        """The rollout with this id, or the latest one of the route with this name."""
        try:
            return self.rollout(name)
        except ApiError as refusal:
            if refusal.status != 404:
                raise
        try:
            latest = self.rollouts(name, 1).rollouts
        except ApiError as refusal:
            if refusal.status != 404:
                raise
            raise ApiError(f"no rollout and no route is named {name!r}; see: gateway rollout list") from None
        if not latest:
            raise ApiError(f"route {name} has no rollout yet; start one with: gateway rollout start {name}")
        return latest[0]

    def _request(self, method: str, path: str, kind: type[T], body: Any = None, params: Any = None) -> T:
        return self._read(self.send(method, path, body, params), kind)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Any = None,
        headers: dict[str, str] | None = None,
        more_s: float = 0.0,
        accepted: tuple[int, ...] = (304,),
    ) -> httpx.Response:
        """One request; ``more_s`` is how much longer than usual the answer may take.

        Refusals are raised, but for the statuses that are ``accepted`` as answers.

        ``path`` is below /api/v1, or one of the few that are not: metrics, probes, the API's own description.
        """
        content = body if isinstance(body, bytes) else None if body is None else encode(body)
        kind = {} if content is None else {"content-type": "application/json"}
        url = f"{self._base}{'' if path in _OUTSIDE else '/api/v1'}{path}"
        try:
            answer = self._http.request(
                *(method, url),
                params=params,
                content=content,
                headers=kind | (headers or {}),
                timeout=self._timeout_s + more_s,
            )
        except httpx.TimeoutException:
            raise ApiError(f"the gateway at {self._url} did not answer in time") from None
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if not answer.is_success and answer.status_code not in accepted:
            raise self._refusal(answer)
        return answer

    def _read(self, answer: httpx.Response, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.content or b"null", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ApiError(f"unexpected answer from {self._url}: {_SAME_VERSION}") from None

    def _unreachable(self, error: httpx.TransportError) -> ApiError:
        return ApiError(
            f"cannot reach the gateway at {self._url} ({error}): start one with `gateway serve CONFIG`,"
            " or give its admin address with --url or GATEWAY_URL"
        )

    def _refusal(self, answer: httpx.Response) -> ApiError:
        if answer.status_code == 401:
            what = "rejected this token: give a valid one" if self._token else "requires a token: give one"
            return ApiError(f"the gateway at {self._url} {what} with --token or GATEWAY_TOKEN", 401)
        try:
            problem = msgspec.json.decode(answer.content, type=dict[str, Any])
            if answer.status_code == 503 and "reasons" in problem:
                return ApiError(f"the gateway is not ready: {'; '.join(problem['reasons'])}", 503)
            return ApiError(f"{problem['title']}: {problem['detail']}", answer.status_code)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            said = f"{answer.status_code} {answer.reason_phrase}"
            return ApiError(f"unexpected answer from {self._url} ({said}): {_SAME_VERSION}")


def one_line(text: str) -> str:
    """The text without anything that could steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _user() -> str:
    """The operator's name, for the journal."""
    with contextlib.suppress(Exception):  # no name in the environment, none in the password database
        return "".join(char for char in getpass.getuser() if " " < char <= "~")
    return ""
