"""What the paths do that show and replace the configuration: the whole, a backend, a route.

`Configuring` replaces the configuration; here is only what the requests say and what the answers look like.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin import etags, request_parsing, schemas
from gateway.admin.configuring import Change, Configuring, InvalidConfigurationError, backend_tree, route_tree
from gateway.admin.etags import tag
from gateway.admin.shared_answers import SharedAnswers
from gateway.config.errors import place_of
from gateway.config.plain import plain, redacted
from gateway.config.yaml_text import to_yaml
from gateway.control.api import ControlPlane
from gateway.core.errors import ConflictError, InvalidValueError, NotFoundError

YAML = "application/yaml"


class ConfigApi:
    """The handlers, by the names that the table of operations uses."""

    def __init__(self, control: ControlPlane, configuring: Configuring, shared: SharedAnswers) -> None:
        self._control = control
        self._shared = shared
        self._configuring = configuring

    # the whole

    async def show_config(self, request: Request) -> Response:
        """The configuration in force, as JSON or, when that is asked for, as YAML."""
        asked = request_parsing.query(request, frozenset({"defaults"}))
        whole = request_parsing.yes_or_no("defaults", asked.get("defaults", "false"))
        tree = redacted(plain(self._configuring.config, defaults=True)) if whole else self._configuring.tree
        return _document(request, tree, self._configuring.etag)

    async def replace_config(self, request: Request) -> Response:
        """Replace it."""
        dry_run = _dry_run(request)
        tree = await request_parsing.document(request)
        change = await self._configuring.replace(tree, _by(request), expect=self._expect(request), dry_run=dry_run)
        return self._changed(request, change)

    async def drop_config(self, request: Request) -> Response:
        """Go back to what the file said when the gateway was started."""
        dry_run = _dry_run(request)
        change = await self._configuring.go_back(_by(request), expect=self._expect(request), dry_run=dry_run)
        return self._changed(request, change)

    async def reload_config(self, request: Request) -> Response:
        """Replace it by what the file says now."""
        dry_run = _dry_run(request)
        change = await self._configuring.reread(_by(request), expect=self._expect(request), dry_run=dry_run)
        return self._changed(request, change)

    async def show_config_source(self, _: Request) -> Response:
        """Where it comes from."""
        return _json(await asyncio.to_thread(lambda: self._configuring.source), self._configuring.etag)

    # backends

    async def list_backends(self, _: Request) -> Response:
        """All backends."""
        return _json(schemas.BackendList(tuple(self._control.backends())))

    async def show_backend(self, request: Request) -> Response:
        """One backend with its endpoints' health."""
        name = request.path_params["backend"]
        current = tag(backend_tree(self._configuring.config, name))
        if not etags.unseen(request.headers, current):
            return Response(status_code=304, headers={"etag": current})
        found = next((view for view in self._control.backends() if view.name == name), None)
        if found is None:  # configured a moment ago, and not yet under control
            raise NotFoundError(f"no backend is named {name!r}")
        return _json(found, current)

    async def show_backend_config(self, request: Request) -> Response:
        """What the configuration says of a backend."""
        name = request.path_params["backend"]
        tree = backend_tree(self._configuring.config, name)
        return _document(request, tree, tag(tree))

    async def put_backend(self, request: Request) -> Response:
        """Add a backend, or replace what is configured of it."""
        name = request.path_params["backend"]
        section = await request_parsing.section(request)

        def edit(tree: dict[str, Any]) -> None:
            tree["backends"][name] = section

        change = await self._edit(request, edit, self._expect_backend(request, name), place_of(("backends", name)))
        tree = backend_tree(self._configuring.config, name)
        return _json(change, tag(tree), 201 if name in change.backends_added else 200)

    async def delete_backend(self, request: Request) -> Response:
        """Drain a backend and remove it; no route may name it."""
        name = request.path_params["backend"]

        def edit(tree: dict[str, Any]) -> None:
            naming = {route["name"] for route in tree["routes"] if name in (route.get("stable"), route.get("canary"))}
            # A promoted backend serves as stable though the configuration may name another.
            serving = {view.name for view in self._control.routes() if name in (view.stable, view.canary)}
            if routes := sorted(naming | serving):
                raise ConflictError(
                    f"backend {name} serves {', '.join(routes)}: change the backends of these routes first"
                )
            del tree["backends"][name]

        backend_tree(self._configuring.config, name)
        change = await self._edit(request, edit, self._expect_backend(request, name), "")
        return _json(change)

    # routes

    async def show_route(self, request: Request) -> Response:
        """One route as it is being served."""
        name = request.path_params["route"]

        async def make() -> bytes:
            view = self._control.route(name)
            return self.route_tag(name).encode() + b"\n" + schemas.encode(view)

        kept, _, body = (await self._shared.get(("route", name), make)).partition(b"\n")
        current = kept.decode()
        if not etags.unseen(request.headers, current):
            return Response(status_code=304, headers={"etag": current})
        return Response(body, headers={"etag": current}, media_type="application/json")

    async def show_route_config(self, request: Request) -> Response:
        """What the configuration says of a route."""
        name = request.path_params["route"]
        return _document(request, route_tree(self._configuring.config, name), self.route_tag(name))

    async def put_route(self, request: Request) -> Response:
        """Add a route, or replace what is configured of it."""
        name = request.path_params["route"]
        section = await request_parsing.section(request)
        if section.setdefault("name", name) != name:
            raise InvalidValueError(f"name: differs from {name!r} in the path; remove it, or use the same name")

        def edit(tree: dict[str, Any]) -> None:
            names = [route["name"] for route in tree["routes"]]
            if name in names:
                tree["routes"][names.index(name)] = section
            else:
                tree["routes"].append(section)

        known = [route.name for route in self._configuring.config.routes]
        index = known.index(name) if name in known else len(known)
        change = await self._edit(request, edit, self._expect_route(request, name), place_of(("routes", index)))
        return _json(change, self.route_tag(name), 201 if name in change.routes_added else 200)

    async def delete_route(self, request: Request) -> Response:
        """Remove a route; requests under way are finished."""
        name = request.path_params["route"]

        def edit(tree: dict[str, Any]) -> None:
            tree["routes"] = [route for route in tree["routes"] if route["name"] != name]

        self._control.route(name)
        return _json(await self._edit(request, edit, self._expect_route(request, name), ""))

    def route_tag(self, name: str) -> str:
        """The route's entity tag."""
        return etags.route_tag(self._control.route(name), route_tree(self._configuring.config, name))

    # preconditions

    def _expect(self, request: Request) -> Callable[[], None]:
        return lambda: etags.check(request.headers, self._configuring.etag)

    def _expect_route(self, request: Request, name: str) -> Callable[[], None]:
        def expect() -> None:
            names = [route.name for route in self._configuring.config.routes]
            _expect_existing(request.headers, name in names, lambda: self.route_tag(name))

        return expect

    def _expect_backend(self, request: Request, name: str) -> Callable[[], None]:
        def expect() -> None:
            config = self._configuring.config
            _expect_existing(request.headers, name in config.backends, lambda: tag(backend_tree(config, name)))

        return expect

    async def _edit(
        self, request: Request, edit: Callable[[dict[str, Any]], None], expect: Callable[[], None], place: str
    ) -> Change:
        try:
            change = await self._configuring.edit(edit, _by(request), expect=expect)
            _said(request, change)
            return change
        except InvalidConfigurationError as error:
            # The body is the part alone: that is where its sender looks for the error.
            raise error.within(place) from None

    def _changed(self, request: Request, change: Change) -> Response:
        _said(request, change)
        return _json(change, self._configuring.etag)


def _expect_existing(headers: Headers, exists: bool, current: Callable[[], str]) -> None:
    """``If-Match`` and, for a thing that must not be there yet, ``If-None-Match: *``."""
    if headers.get("if-none-match", "").strip() == "*" and exists:
        raise etags.failed("it exists already: read it, then replace it with If-Match")
    if not exists and "if-match" in headers:
        raise etags.failed("If-Match asks for something that is not there (any more)")
    if exists:
        etags.check(headers, current())


def _said(request: Request, change: Change) -> None:
    request.scope["audit"]["said"] = ", ".join(change.changed)[:500] or "nothing changes"


def _dry_run(request: Request) -> bool:
    asked = request_parsing.query(request, frozenset({"dry_run"}))
    return request_parsing.yes_or_no("dry_run", asked.get("dry_run", "false"))


def _by(request: Request) -> str:
    found: str = request.scope["principal"].actor(request.headers)
    return found


def _json(body: Any, etag: str | None = None, status: int = 200) -> Response:
    headers = {} if etag is None else {"etag": etag}
    return Response(schemas.encode(body), status, headers, "application/json")


def _document(request: Request, tree: Any, etag: str) -> Response:
    """A part of the configuration in the form that the client would rather have."""
    if not etags.unseen(request.headers, etag):
        return Response(status_code=304, headers={"etag": etag})
    accept = request.headers.get("accept", "").lower()
    if "yaml" in accept and "json" not in accept:
        text = to_yaml(tree)
        return Response(text, 200, {"etag": etag, "vary": "accept"}, YAML)
    return Response(msgspec.json.encode(tree), 200, {"etag": etag, "vary": "accept"}, "application/json")
