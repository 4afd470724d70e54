"""Which route a request matches, also when its path is disguised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import NotFoundError
from gateway.core.traffic.router import Router, normalise
from gateway.core.traffic.table import Backend, Endpoint, Route, RoutingTable


def _table(*routes: Route) -> RoutingTable:
    return RoutingTable(1, routes, {"s": Backend("s", (Endpoint("127.0.0.1", 1),))})


ROUTER = Router(
    _table(
        Route("all", "/", stable="s"),
        Route("models", "/v2/models", stable="s"),
        Route("digits", "/v2/models/digits", stable="s"),
        Route("tenant", "/", stable="s", hosts=("tenant.example",)),
    )
)


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        (b"x", b"/", "all"),
        (b"x", b"/v2/models", "models"),
        (b"x", b"/v2/models/digits", "digits"),
        (b"x", b"/v2/models/digits/infer", "digits"),
        (b"x", b"/v2/models/digitsx", "models"),
        (b"x", b"/v2/models/%64igits/infer", "digits"),
        (b"x", b"/v2//models/./digits/", "digits"),
        (b"x", b"/v2/models/digits/../other", "models"),
        (b"tenant.example:8080", b"/v2/models/digits", "tenant"),
        (b"TENANT.example", b"/", "tenant"),
        (b"x", b"/../etc", None),
        (b"x", b"/a%00b", None),
    ],
)
def test_host_before_none_longest_prefix_first_on_a_normalised_copy(
    host: bytes, path: bytes, expected: str | None
) -> None:
    for _ in range(2):  # the second time from the cache
        route = ROUTER.match(host, path)
        assert (route.name if route else None) == expected


@given(st.binary(max_size=60))
def test_normalising_never_fails_and_settles(path: bytes) -> None:
    once = normalise(b"/" + path)
    if once is not None:
        assert b"//" not in once
        assert b"/../" not in once + b"/"
        assert once == b"" or once.startswith(b"/")


@given(st.lists(st.binary(min_size=1, max_size=8), max_size=50))
def test_the_cache_changes_nothing(paths: list[bytes]) -> None:
    for path in paths * 2:
        assert ROUTER.match(b"h", b"/" + path) is Router(ROUTER.table).match(b"h", b"/" + path)


def test_the_cache_is_bounded() -> None:
    router = Router(_table(Route("all", "/", stable="s")))
    for i in range(20_000):
        router.match(b"h", b"/%d" % i)
    assert len(router._cache) <= 4096  # noqa: SLF001  # nothing outside shows its size


def test_a_weight_change_makes_a_new_table_with_the_next_epoch() -> None:
    table = RoutingTable(
        7,
        (Route("r", "/", stable="s", canary="c"),),
        {name: Backend(name, (Endpoint("127.0.0.1", 1),)) for name in "sc"},
    )
    after = table.with_weight("r", 1250)
    assert (table.route("r").weight_bp, after.route("r").weight_bp, after.epoch) == (0, 1250, 8)
    with pytest.raises(NotFoundError, match="there are: r"):
        table.with_weight("x", 1)
    with pytest.raises(ValueError, match=r"not in 0\.\.10000"):
        table.with_weight("r", 10_001)
