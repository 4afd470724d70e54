"""The sections ``feature_stores`` and ``routes[].features``: features put into requests before a variant is chosen.

A store's address is the file's alone: what the API may change on a route can name a store, and no address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.alert_receivers import WebhookUrl
from gateway.config.errors import BadValue, Issue, issues_in, show
from gateway.config.secret_values import variable
from gateway.config.section import Bytes, EnvironmentName, HeaderName, Seconds, Section
from gateway.config.shape import Also, Doc, Noun
from gateway.core.traffic.table import EntityKey, Features, OnMissing

_DEFAULT = Features(url="", entity=())
_PATH = re.compile(r"\$(\.[A-Za-z_][A-Za-z0-9_-]*)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,254}")


_path = grammar.matching(_PATH, "is not a path of keys", "write $.customer.id")


def _key_path(text: str) -> str:
    if _path(text) == "$":
        raise BadValue("'$' is the whole body", "write $.customer.id")
    return text


def _scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise BadValue(f"{show(value)} is no value of a feature", "write a number, text, true or false")
    return value


_name = grammar.matching(_NAME, "is not a name of Feast", "use letters, digits, `_`, `:`, `.` and `-`")


JsonPath = Annotated[str, AfterValidator(_path), Noun("a path such as $.features")]
KeyPath = Annotated[str, AfterValidator(_key_path), Noun("a path such as $.customer.id")]
FeastName = Annotated[str, AfterValidator(_name), Noun("a name")]
FeatureValue = Annotated[
    Any,
    AfterValidator(_scalar),
    Also({"type": "number"}),
    Also({"type": "boolean"}),
    Noun("a number, text, true or false"),
]


class FeatureStoreConfig(Section):
    """A Feast feature server."""

    url: Annotated[WebhookUrl, Doc("The server's address (`feast serve`), such as `http://feast:6566`.")]
    token_env: Annotated[EnvironmentName | None, Doc("Environment variable with a bearer token for it.")] = None


class EntityKeyConfig(Section):
    """Where a key of the entity is in a request: exactly one of the two."""

    json_path: Annotated[KeyPath | None, Doc("In its JSON body, such as `$.customer.id`.")] = None
    header: Annotated[HeaderName | None, Doc("In this header.")] = None


class FeaturesConfig(Section):
    """Features of the entity that a request is about, put into its JSON body."""

    store: Annotated[FeastName, Doc("One of `feature_stores`.")]
    service: Annotated[FeastName | None, Doc("The feature service. Exactly one of `service` and `features`.")] = None
    features: Annotated[list[FeastName], Doc("Single features, as `view:feature`.")] = []
    entity: Annotated[
        dict[FeastName, EntityKeyConfig], Field(min_length=1), Doc("The entity's join keys, and where they are.")
    ]
    into: Annotated[
        JsonPath,
        Doc("The object in the body that gets the features as keys; made where it is missing. `$`: the body itself."),
    ] = "$.features"
    timeout_s: Annotated[Seconds, Doc("How long a request waits for its features at most.")] = _DEFAULT.timeout_s
    ttl_s: Annotated[
        float,
        Field(ge=0, le=86_400),
        Noun("a number of seconds"),
        Doc("How long what was looked up is used again, by all workers. 0: not at all."),
    ] = _DEFAULT.ttl_s
    on_missing: Annotated[
        OnMissing,
        Field(strict=False),
        Doc(
            "What becomes of a request whose features are not all known: the store does not have them, does not answer "
            "in time, or the request does not name its entity. `pass`: it goes on with those that there are. "
            "`default`: `defaults` take the place of the missing ones. `reject`: it is answered 503."
        ),
    ] = _DEFAULT.on_missing
    defaults: Annotated[dict[FeastName, FeatureValue], Doc("Values for `on_missing: default`.")] = {}
    body_bytes_max: Annotated[Bytes, Doc("A larger body is not read: its features are missing.")] = (
        _DEFAULT.body_bytes_max
    )

    def value(self, stores: Mapping[str, FeatureStoreConfig]) -> Features:
        """As workers read it."""
        store = stores[self.store]
        return Features(
            url=store.url,
            token_env=store.token_env,
            entity=tuple(
                EntityKey(name, _keys(key.json_path or "$"), None if key.header is None else key.header.lower())
                for name, key in self.entity.items()
            ),
            service=self.service,
            features=tuple(self.features),
            into=_keys(self.into),
            timeout_s=self.timeout_s,
            ttl_s=self.ttl_s,
            on_missing=self.on_missing,
            defaults=dict(self.defaults),
            body_bytes_max=self.body_bytes_max,
        )


def _keys(path: str) -> tuple[str, ...]:
    return tuple(path.split(".")[1:])


def feature_store_issues(stores: Mapping[str, FeatureStoreConfig], environ: Mapping[str, str]) -> Iterator[Issue]:
    """What is wrong with what the stores have in the environment."""
    for name, store in stores.items():
        if store.token_env is not None:
            place = ("feature_stores", name, "token_env")
            yield from issues_in(place, lambda env=store.token_env: variable(env, environ))  # type: ignore[misc]  # mypy cannot infer a lambda with a default


def feature_issues(place: tuple[str | int, ...], route: dict[str, Any], stores: Iterable[str]) -> Iterator[Issue]:
    """What is wrong between the keys of one route's features."""
    features = route.get("features")
    if not isinstance(features, dict):
        return
    here = (*place, "features")
    store = features.get("store")
    if isinstance(store, str) and store not in stores:
        yield Issue((*here, "store"), f"there is no feature store {show(store)}", "name one of `feature_stores`")
    if bool(features.get("service")) == bool(features.get("features")):
        yield Issue(here, "needs exactly one of service and features", "keep one, or add one")
    entity = features.get("entity")
    for name, key in entity.items() if isinstance(entity, dict) else ():
        if isinstance(key, dict) and (key.get("json_path") is None) == (key.get("header") is None):
            yield Issue((*here, "entity", name), "needs exactly one of json_path and header", "keep one, or add one")
    if route.get("stream_requests") is True:
        yield Issue(here, "its route has stream_requests, and features need the whole body", "remove one of them")


def features_of(features: FeaturesConfig | None, stores: Mapping[str, FeatureStoreConfig]) -> Features | None:
    """A route's features as workers read them."""
    return None if features is None else features.value(stores)
