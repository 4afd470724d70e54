"""The client that waits for each answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from gateway.api_types import ControlEvent, Readiness, RolloutBody, RolloutList, RouteView, StoryBody
from gateway.client import calls, sse
from gateway.client.calls import Call
from gateway.client.errors import ApiError, UnknownNameError
from gateway.client.waiting import AWAY_S_MAX, OnEvent, waiting
from gateway.client.wire import DEFAULT_URL, TIMEOUT_S, Wire

T = TypeVar("T")


class Client:
    """The API of one gateway. Every method raises `ApiError`, by kind. ``actor`` is who asks, for the journal."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        actor: str | None = None,
    ) -> None:
        self._wire = wire = Wire(url, token, timeout_s, actor)
        transport = None if wire.socket is None else httpx.HTTPTransport(uds=wire.socket, verify=False)
        self._http = httpx.Client(
            headers=wire.headers, trust_env=wire.trust_env, verify=wire.verify, transport=transport
        )

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # rollouts

    def start_rollout(
        self,
        route: str,
        *,
        version: str | None = None,
        endpoints: Sequence[str] = (),
        model: str = "",
        uri: str = "",
        digest: str = "",
        plan: Any = None,
        retry: bool = False,
        reason: str = "",
        idempotency_key: str | None = None,
    ) -> RolloutBody:
        """Start a rollout of the route's canary or, with ``version``, of that version at ``endpoints``.

        The same ``idempotency_key`` gives the same rollout again, for a day. So does the same version while its rollout
        is under way or promoted.
        """
        call = calls.start_rollout(
            route,
            version=version,
            endpoints=endpoints,
            model=model,
            uri=uri,
            digest=digest,
            plan=plan,
            retry=retry,
            reason=reason,
            idempotency_key=idempotency_key,
        )
        return self.ask(call)

    def wait(
        self,
        rollout: RolloutBody | str,
        timeout_s: float | None = None,
        on_event: OnEvent | None = None,
        away_s_max: float = AWAY_S_MAX,
    ) -> RolloutBody:
        """The rollout (or the one with this id) when it has ended; ``on_event`` is called with each of its states.

        Survives restarts of the gateway. Raises WaitTimeoutError; the rollout goes on then.
        """
        steps = waiting(rollout, timeout_s, on_event, time.monotonic, away_s_max)
        answer: RolloutBody | ApiError | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as done:
                ended: RolloutBody = done.value
                return ended
            if isinstance(step, Call):
                answer = self._poll(step)
            else:
                time.sleep(step)
                answer = None

    def _poll(self, call: Call[RolloutBody]) -> RolloutBody | ApiError | None:
        """The rollout, None when nothing has changed, or what went wrong."""
        try:
            answer = self.send(call)
            return None if answer.status_code == 304 else self._wire.read(answer, call.kind)
        except ApiError as error:
            return error

    def pause(self, rollout_id: str, reason: str = "") -> RolloutBody:
        """Hold the weight; a bad canary is still rolled back."""
        return self.decide(rollout_id, "pause", reason)

    def resume(self, rollout_id: str, reason: str = "") -> RolloutBody:
        """Let automation go on."""
        return self.decide(rollout_id, "resume", reason)

    def approve(self, rollout_id: str, reason: str = "") -> RolloutBody:
        """Open the gate that the rollout waits for."""
        return self.decide(rollout_id, "approve", reason)

    def promote(self, rollout_id: str, reason: str = "", *, next_step: bool = False) -> RolloutBody:
        """Promote by hand, whatever the evidence says: all the way, or to the next step."""
        return self.decide(rollout_id, "promote", reason, next_step=next_step)

    def abort(self, rollout_id: str, reason: str = "") -> RolloutBody:
        """Roll back by hand: all requests go to stable."""
        return self.decide(rollout_id, "abort", reason)

    def decide(self, rollout_id: str, verb: str, reason: str = "", **more: Any) -> RolloutBody:
        """Any of these by its name; ``more`` is what a verb knows besides its reason."""
        return self.ask(calls.decide(rollout_id, verb, reason, more))

    def rollout(self, rollout_id: str) -> RolloutBody:
        """One rollout."""
        return self.ask(calls.rollout(rollout_id))

    def rollouts(
        self, route: str | None = None, limit: int = 20, before: str | None = None, search: str | None = None
    ) -> RolloutList:
        """The newest rollouts, of all routes or one; ``before`` goes on from the page before.

        ``search``: those that have all of these words in their names, versions, phase, reason or person.
        """
        return self.ask(calls.rollouts(route, limit, before, search))

    def find(self, name: str) -> RolloutBody:
        """The rollout with this id, or the latest one of the route with this name."""
        with contextlib.suppress(UnknownNameError):
            return self.rollout(name)
        try:
            latest = self.rollouts(name, 1).rollouts
        except UnknownNameError:
            message = f"no rollout and no route is named {name!r}; see: gateway rollout list"
            raise UnknownNameError(message, 404) from None
        if not latest:
            raise UnknownNameError(f"route {name} has no rollout yet; start one with: gateway rollout start {name}")
        return latest[0]

    def explain(self, rollout_id: str) -> StoryBody:
        """What was decided on a rollout, and why, from the journal."""
        return self.ask(calls.explain(rollout_id))

    # routes and the rest

    def routes(self) -> tuple[RouteView, ...]:
        """All routes."""
        return self.ask(calls.routes()).routes

    def route(self, name: str) -> RouteView:
        """One route."""
        return self.ask(calls.route(name))

    def set_weight(self, route: str, percent: float, reason: str = "") -> RouteView:
        """Set a canary share by hand; during a rollout this pauses it."""
        return self.ask(calls.set_weight(route, percent, reason))

    def readiness(self) -> Readiness:
        """Whether the gateway can do its work, and why not."""
        return self.ask(calls.readiness())

    def events(
        self,
        after: int | str | None = None,
        *,
        reconnect: bool = True,
        silence_s_max: float | None = sse.SILENCE_S_MAX,
        on_open: Callable[[], object] | None = None,
    ) -> Iterator[ControlEvent]:
        """All events from now on, or after the one with the cursor ``after``, across restarts of the gateway.

        An event's id will do for ``after`` as long as the gateway has not been restarted since: ids begin at 1 then.
        ``on_open`` is called when no later event can be missed any more. Without ``reconnect`` the end of the stream is
        the end. A stream that is silent for longer than ``silence_s_max``, heartbeats included, is broken.
        """
        position = sse.Position(after)
        while True:
            try:
                yield from self._stream(position, silence_s_max, on_open)
            except ApiError as error:
                if not (reconnect and error.passing):
                    raise
            if not reconnect:
                return
            time.sleep(sse.AGAIN_S)

    def _stream(
        self, position: sse.Position, silence_s_max: float | None, on_open: Callable[[], object] | None
    ) -> Iterator[ControlEvent]:
        wire = self._wire
        timeout = httpx.Timeout(wire.timeout_s, read=silence_s_max)
        try:
            with self._http.stream(
                "GET", f"{wire.base}{sse.PATH}", headers=position.headers(), timeout=timeout
            ) as answer:
                if not answer.is_success:
                    answer.read()
                    raise wire.refusal(answer)
                for line in answer.iter_lines():
                    if on_open is not None:
                        on_open()
                    event = position.event(line)
                    if event is not None:
                        yield event
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise wire.failure(error) from None
        except ValueError:
            raise wire.unexpected() from None

    # any request

    def call(self, method: str, path: str, body: Any = None, params: Any = None) -> Any:
        """Whatever the API has at ``path`` (below /api/v1), as plain values."""
        return self.ask(Call(method, path, object, body, params))

    def ask(self, call: Call[T]) -> T:
        """The answer to a call, as a value."""
        return self._wire.read(self.send(call), call.kind)

    def plain(self, answer: httpx.Response) -> Any:
        """The JSON of an answer as plain values; None for an empty one."""
        return self._wire.read(answer, object)

    def send(self, call: Call[Any]) -> httpx.Response:
        """The answer to a call, as it came. Refusals are raised."""
        try:
            answer = self._http.request(**self._wire.request(call))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._wire.failure(error) from None
        return self._wire.check(call, answer)
