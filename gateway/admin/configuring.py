"""The configuration at run time: strict decode, validate, keep, swap; the old one stands until the new one does.

Rules:

1. One replacement at a time, and none is half done: what is refused, or fails, leaves the old one in force.
2. Only what a running gateway can change may differ: backends and routes over the API (`CHANGEABLE`), and from the
   file also hooks, gates, sources, actuators and validators (`IN_THE_FILE`), which name programs and addresses of the
   operator's own.
   Anything else is refused with its keys, and with what does change them.
3. A backend that is not in the file must be where the file allows it (`addresses`).
4. A rollout under way keeps its route and its backends; it is ended first.
5. What was given is stored before it is in force (`gateway.config.stored`).
6. A file that has changed wins, but for the versions that routes serve: those stay where it did not change them
   (`gateway.config.keeping`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec

from gateway.admin.addresses import AddressRules, refusals
from gateway.admin.etags import tag
from gateway.admin.problems import ProblemError
from gateway.config import grammar
from gateway.config.build import endpoints_of, guarded, routing_table
from gateway.config.document import read_document
from gateway.config.errors import ConfigError, LocatedIssue, listed, place_of
from gateway.config.keeping import roles_of
from gateway.config.load import load, read, reload
from gateway.config.plain import MISSING, differences, plain, redacted, restored, value_at
from gateway.config.schema import RESTART_KEYS, GatewayConfig
from gateway.config.stored import Stored, carried_over, sha256_of
from gateway.config.watching import needs_features, needs_inspector
from gateway.config.yaml_text import to_yaml
from gateway.control.api import ControlPlane
from gateway.core.errors import ConflictError, InvalidValueError, NotFoundError
from gateway.core.rollout.types import Phase
from gateway.core.traffic.table import Endpoint, RoutingTable
from gateway.runtime.clock import Clock, iso

_log = logging.getLogger("gateway.admin")
CHANGEABLE = ("backends", "routes")
IN_THE_FILE = ("hooks", "gates", "sources", "actuators", "validators", "feature_stores")


class InvalidConfigurationError(ProblemError):
    """A configuration that cannot be used, with every error."""

    def __init__(self, issues: tuple[LocatedIssue, ...]) -> None:
        self.issues = issues
        super().__init__("invalid-configuration", listed(issues))

    def within(self, place: str) -> InvalidConfigurationError:
        """The same, as a client that sent only the part at ``place`` sees it."""
        if not place:
            return self
        return InvalidConfigurationError(
            tuple(
                msgspec.structs.replace(issue, place=issue.place.removeprefix(place).removeprefix("."))
                for issue in self.issues
            )
        )


class Change(msgspec.Struct, frozen=True):
    """What a replacement would change, or has changed: the places, and the backends and routes that come and go."""

    changed: tuple[str, ...]
    backends_added: tuple[str, ...]
    backends_removed: tuple[str, ...]
    routes_added: tuple[str, ...]
    routes_removed: tuple[str, ...]


class ConfigLine(msgspec.Struct, frozen=True):
    """The line of the file that gives the value at this path (keys, and places in lists from 0)."""

    path: tuple[str | int, ...]
    line: int


class Source(msgspec.Struct, frozen=True):
    """Where the configuration in force comes from: ``file``, or ``api`` with who gave it and when.

    ``lines`` has each value in force that is the file's.
    """

    source: str
    file: str
    etag: str
    by: str | None = None
    at: str | None = None
    lines: tuple[ConfigLine, ...] = ()


class Configuring:
    """The configuration in force, and the one way to replace it."""

    def __init__(
        self,
        control: ControlPlane,
        clock: Clock,
        path: Path,
        text: bytes,
        config: GatewayConfig,
        own: tuple[tuple[str, int], ...] = (),
        *,
        stored: Stored | None = None,
    ) -> None:
        """``text`` is what the file held at the start; ``config`` is in force, made of ``stored`` if there is one."""
        self._control = control
        self._clock = clock
        self._path = path
        self._text = text
        self.config = config
        self._etag = config, tag(plain(config))
        self._rules = AddressRules(config.admin.backend_allow, own)
        self._turn = asyncio.Lock()
        # Where those that the file names are is the file's business.
        of_file = reload(path, text)
        self._of_file: dict[str, Any] = plain(of_file)
        self._trusted = endpoints_of(of_file)
        self._deployed: set[Endpoint] = set()
        self._stored = stored
        self._known_lines: tuple[GatewayConfig | None, tuple[ConfigLine, ...]] = (None, ())

    def trust(self, endpoints: Iterable[str]) -> None:
        """Take these addresses for named by the file: a deployer that it names has deployed there."""
        self._deployed |= {grammar.endpoint(url) for url in endpoints}
        self._trusted |= self._deployed

    @property
    def tree(self) -> dict[str, Any]:
        """The configuration in force as its file would say it, without secrets."""
        found: dict[str, Any] = redacted(plain(self.config))
        return found

    @property
    def etag(self) -> str:
        """What names the configuration in force."""
        named, etag = self._etag
        if named is not self.config:
            self._etag = named, etag = self.config, tag(plain(self.config))
        return etag

    @property
    def source(self) -> Source:
        """Where it comes from."""
        stored = self._stored
        if stored is None:
            return Source("file", str(self._path), self.etag, lines=self._lines())
        return Source("api", str(self._path), self.etag, stored.by, stored.at, self._lines())

    def _lines(self) -> tuple[ConfigLine, ...]:
        """Of each value in force that the file gives, the line; made once for each configuration in force."""
        named, lines = self._known_lines
        if named is not self.config:
            tree, document = plain(self.config), read_document(self._text.decode("utf-8", "replace"))
            lines = tuple(
                ConfigLine(path, place.line)
                for path, place in (document.values | document.keys).items()
                if path and value_at(tree, path) == value_at(self._of_file, path) != MISSING
            )
            self._known_lines = self.config, lines
        return lines

    async def replace(
        self,
        tree: Any,
        by: str,
        *,
        expect: Callable[[], None],
        dry_run: bool = False,
        text: bytes | None = None,
        from_file: bool = False,
    ) -> Change:
        """Put ``tree`` in force, in the name of ``by``; ``text`` is how it was written, None for no text.

        ``from_file``: the file says or said so, which may change more.

        ``expect`` raises when the configuration in force is not the one that the request is about. Raises ProblemError,
        ConflictError (nothing was changed), JournalError when it cannot be kept.
        """
        async with self._turn:
            expect()
            changeable = (*CHANGEABLE, *IN_THE_FILE) if from_file else CHANGEABLE
            new, change = await asyncio.to_thread(self._understood, tree, text, changeable)
            self._refuse_amid_rollouts(new)
            if why := await refusals(self._rules, endpoints_of(new) - endpoints_of(self.config) - self._trusted):
                raise ProblemError("address-not-allowed", "; ".join(why))
            if not dry_run and change.changed:
                await self._control.must_keep()
                await self._swap(new, by)
            return change

    async def edit(self, edit: Callable[[dict[str, Any]], None], by: str, *, expect: Callable[[], None]) -> Change:
        """Replace it by what ``edit`` makes of its tree, in place."""
        tree = plain(self.config)
        edit(tree)
        return await self.replace(tree, by, expect=expect)

    async def reread(self, by: str, *, expect: Callable[[], None], dry_run: bool = False) -> Change:
        """Replace it by what the file says now."""
        try:
            text = await asyncio.to_thread(read, self._path)
        except ConfigError as error:
            raise InvalidConfigurationError(error.issues) from None
        # The file is the operator's own word: what it names is trusted.
        config = await asyncio.to_thread(self._checked, text)
        self._trusted |= endpoints_of(config)
        goes_on = await asyncio.to_thread(self._carried_over, text)
        text = text if goes_on is None else goes_on.text.encode()
        return await self.replace(plain(config), by, expect=expect, dry_run=dry_run, text=text, from_file=True)

    def _understood(self, tree: Any, text: bytes | None, changeable: tuple[str, ...]) -> tuple[GatewayConfig, Change]:
        """What is asked for, and what it changes. On a thread: a large configuration takes seconds."""
        new = self._checked(_written(restored(tree, plain(self.config))) if text is None else text)
        change = self._change(new)
        self._refuse_restarts(new, changeable)
        return new, change

    def _checked(self, text: bytes) -> GatewayConfig:
        """The configuration in the text; new TLS files are looked at, the others work or have an alarm.

        Raises InvalidConfigurationError.
        """
        try:
            new = load(self._path, text=text)
            before = self.config.backends
            fresh = [n for n, b in new.backends.items() if b.tls and (n not in before or b.tls != before[n].tls)]
            if fresh:
                load(self._path, text=text, tls_of=fresh)
            return new
        except ConfigError as error:
            raise InvalidConfigurationError(error.issues) from None

    def _change(self, new: GatewayConfig) -> Change:
        old = self.config
        changed = tuple(place_of(path) for path in differences(by_name(old), by_name(new)))
        names = {route.name for route in old.routes}
        fresh = {route.name for route in new.routes}
        return Change(
            changed,
            backends_added=tuple(sorted(new.backends.keys() - old.backends.keys())),
            backends_removed=tuple(sorted(old.backends.keys() - new.backends.keys())),
            routes_added=tuple(sorted(fresh - names)),
            routes_removed=tuple(sorted(names - fresh)),
        )

    def _refuse_restarts(self, new: GatewayConfig, changeable: tuple[str, ...]) -> None:
        old_tree, new_tree = plain(self.config, defaults=True), plain(new, defaults=True)
        paths = [path for path in differences(old_tree, new_tree) if path[0] not in changeable]
        keys = ", ".join(dict.fromkeys(place_of(path) for path in paths))
        restart = any(path[0] in RESTART_KEYS for path in paths)
        if needs_features(new) and not needs_features(self.config):
            keys, restart = keys or "routes[].features, of which there were none", True
        if needs_inspector(new) and not needs_inspector(self.config):
            keys, restart = keys or "analysis.model_errors, predictions and labels, of which there were none", True
        if keys:
            how = "restart the gateway" if restart else "reload it (SIGHUP)"
            raise ProblemError(
                "restart-required",
                f"a request cannot change {keys}: remove the change, or edit the file and {how};"
                f" it can change {' and '.join(changeable)}",
            )

    def _refuse_amid_rollouts(self, new: GatewayConfig) -> None:
        routes = {route.name: route for route in new.routes}
        for route in self.config.routes:
            view = self._control.route(route.name)
            kept = routes.get(route.name)
            # That a new canary takes the place of one under way is for the plan to say: see `reconfigure`.
            if (kept is None or kept.stable != route.stable) and not _over(Phase(view.phase)):
                raise ConflictError(
                    f"rollout {view.rollout_id} is in progress on route {route.name}, which would lose its backends:"
                    " abort it, or wait until it ends"
                )

    async def _swap(self, new: GatewayConfig, by: str) -> None:
        before = self._stored
        await self._keep(await asyncio.to_thread(self._stored_form, new, by))
        try:
            table = await asyncio.to_thread(self._table, new)
            await self._control.reconfigure(new, table, by)
        except BaseException:
            await self._keep(before)
            raise
        self.config = new

    def _stored_form(self, new: GatewayConfig, by: str) -> Stored | None:
        """How it is kept; None where it is what the file says."""
        tree = plain(new)
        if tree == self._of_file:
            return None
        text = to_yaml(tree)
        return Stored(sha256_of(self._text), text, by, iso(self._clock.wall_s()), roles_of(self._of_file))

    def _table(self, new: GatewayConfig) -> RoutingTable:
        return _guarded_table(new, self._trusted)

    async def _keep(self, stored: Stored | None) -> None:
        await self._control.keep_configuration(stored)
        self._stored = stored

    async def follow(self, text: bytes, by: str) -> None:
        """Go by what the file holds now, which the supervisor has read and checked: the file wins over the API.

        The versions that routes serve stay where the file did not change them (rule 6).
        """
        async with self._turn:
            of_file = await asyncio.to_thread(reload, self._path, text)
            goes_on = await asyncio.to_thread(self._carried_over, text)
            new = of_file if goes_on is None else await asyncio.to_thread(reload, self._path, goes_on.text.encode())
            trusted = endpoints_of(of_file) | self._deployed
            table = await asyncio.to_thread(_guarded_table, new, trusted)
            await self._control.reconfigure(new, table, by, file_sha256=sha256_of(text))
            self.config, self._text, self._of_file = new, text, plain(of_file)
            self._trusted = trusted
            self._control.drop_configuration(goes_on)
            self._stored = goes_on

    def _carried_over(self, text: bytes) -> Stored | None:
        """What goes on of what was given at run time, now that the file holds ``text``."""
        if self._stored is None:
            return None
        goes_on = carried_over(self._stored, text, lambda one: plain(reload(self._path, one)))
        if goes_on is None:
            return None
        try:
            load(self._path, text=goes_on.text.encode())
        except ConfigError as error:
            _log.warning(
                "the versions that %s configured at %s are not kept, because they do not fit the changed file: %s",
                *(goes_on.by, goes_on.at, str(error).partition("\n")[0]),
            )
            return None
        return goes_on

    async def go_back(self, by: str, *, expect: Callable[[], None], dry_run: bool = False) -> Change:
        """Replace it by what the file said when the gateway was started."""
        return await self.replace(self._of_file, by, expect=expect, dry_run=dry_run, from_file=True)


def _guarded_table(config: GatewayConfig, trusted: Collection[Endpoint]) -> RoutingTable:
    return guarded(routing_table(config, epoch=0), trusted, config.admin.backend_allow)


def _written(tree: Any) -> bytes:
    try:
        return to_yaml(tree).encode()
    except UnicodeEncodeError:
        raise InvalidValueError("the body holds half of a surrogate pair; write the character itself") from None
    except RecursionError:
        raise InvalidValueError("the body is nested too deeply") from None


def _over(phase: Phase) -> bool:
    return phase is Phase.IDLE or phase.terminal


def by_name(config: GatewayConfig) -> dict[str, Any]:
    """The tree with all defaults and with routes by their names, so that an insertion is not a change of all others."""
    tree: dict[str, Any] = plain(config, defaults=True)
    return tree | {"routes": {route["name"]: route for route in tree["routes"]}}


def route_tree(config: GatewayConfig, name: str) -> dict[str, Any]:
    """What the configuration says of a route, or NotFoundError."""
    for route in config.routes:
        if route.name == name:
            found: dict[str, Any] = plain(route)
            return found
    known = ", ".join(sorted(route.name for route in config.routes))
    raise NotFoundError(f"no route is named {name!r}; there are: {known}")


def backend_tree(config: GatewayConfig, name: str) -> dict[str, Any]:
    """What the configuration says of a backend, or NotFoundError."""
    if name not in config.backends:
        raise NotFoundError(f"no backend is named {name!r}; there are: {', '.join(sorted(config.backends))}")
    found: dict[str, Any] = plain(config.backends[name])
    return found
