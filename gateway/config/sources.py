"""The section ``sources``: registries that start rollouts by themselves, and how a version of theirs gets endpoints.

Secrets come from the environment, never from this file, which is read, copied and shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from string import Formatter
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.alert_receivers import WebhookUrl
from gateway.config.errors import BadValue, Issue, issues_in, show
from gateway.config.hooks import Argument, key_of
from gateway.config.section import Bytes, EndpointUrl, EnvironmentName, RouteName, Seconds, Section
from gateway.config.shape import Doc, Noun

SOURCES_MAX = 100
_FIELDS = frozenset({"name", "version", "route"})


def _template(text: str) -> str:
    try:
        fields = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise BadValue(f"{show(text)} is not a template: {error}", "write {name}, {version} and {route}") from None
    if unknown := fields - _FIELDS:
        raise BadValue(f"{show(text)} has unknown fields {sorted(unknown)}", "write {name}, {version} and {route}")
    grammar.endpoint(text.format(**dict.fromkeys(_FIELDS, "a")))
    return text


Template = Annotated[str, AfterValidator(_template), Noun("a URL with {name} and {version}")]
Alias = Annotated[str, AfterValidator(grammar.printable), Field(min_length=1, max_length=255), Noun("an alias")]


class ModelServerConfig(Section):
    """The bundled model server, started and supervised by this gateway."""

    threads: Annotated[int, Field(ge=1, le=64), Doc("Inferences at a time.")] = 1
    start_timeout_s: Annotated[Seconds, Doc("A model that is not ready by then is refused.")] = 60.0


class DeployerConfig(Section):
    """How a version gets endpoints. Exactly one key."""

    endpoints: Annotated[
        Annotated[list[EndpointUrl], Field(min_length=1)] | None,
        Doc("These addresses serve whatever version is the challenger: somebody else deploys it there."),
    ] = None
    template: Annotated[
        Template | None, Doc("The version's address, such as `http://{name}-v{version}.models.svc:8080`.")
    ] = None
    command: Annotated[
        Annotated[list[Argument], Field(min_length=1, max_length=100)] | None,
        Doc(
            "Program and arguments, run without a shell. It gets the version as JSON on standard input, deploys it, "
            "and prints its endpoints, one on each line."
        ),
    ] = None
    command_timeout_s: Annotated[Seconds, Doc("A command that takes longer is killed, and the version refused.")] = (
        600.0
    )
    model_server: Annotated[
        ModelServerConfig | None,
        Doc(
            "The bundled ONNX server serves the artifact on this machine. It stays after a promotion and is stopped "
            "after a rollback, when its requests have drained."
        ),
    ] = None


class MlflowConfig(Section):
    """One registered model of an MLflow server, and the route that serves it."""

    uri: Annotated[WebhookUrl, Doc("The MLflow server's address.")]
    model: Annotated[
        str, AfterValidator(grammar.printable), Field(min_length=1, max_length=256), Doc("The registered model's name.")
    ]
    route: Annotated[RouteName, Doc("The route that its versions are rolled out on.")]
    deployer: Annotated[DeployerConfig, Doc("How a version gets endpoints.")] = DeployerConfig(
        model_server=ModelServerConfig()
    )
    challenger: Annotated[Alias, Doc("The alias that asks for a rollout of its version. Removed at the end.")] = (
        "challenger"
    )
    champion: Annotated[Alias, Doc("The alias that a promotion moves to its version.")] = "champion"
    poll_s: Annotated[Seconds, Doc("How often the alias is looked up. A webhook makes it at once.")] = 30.0
    timeout_s: Annotated[Seconds, Doc("Timeout of one request to the MLflow server.")] = 30.0
    artifact_bytes_max: Annotated[Bytes, Doc("A version whose files are larger in all is refused.")] = 2 << 30
    token_env: Annotated[
        EnvironmentName | None, Doc("Environment variable with the bearer token for the MLflow server.")
    ] = None
    webhook_secret_env: Annotated[
        EnvironmentName | None,
        Doc(
            "Environment variable with the secret of the MLflow webhook that points to "
            "`/api/v1/webhooks/mlflow` of the admin listener; 16 bytes or more."
        ),
    ] = None


class SourceConfig(Section):
    """One source."""

    mlflow: Annotated[MlflowConfig, Doc("A registered model of an MLflow server.")]


def source_issues(sources: Iterable[SourceConfig], environ: Mapping[str, str]) -> Iterator[Issue]:
    """What is wrong with what the sources have in the environment."""
    for index, source in enumerate(sources):
        mlflow = source.mlflow
        for key, read in (("token_env", token_of), ("webhook_secret_env", secret_of)):
            yield from issues_in(("sources", index, "mlflow", key), lambda read=read, one=mlflow: read(one, environ))  # type: ignore[misc]  # mypy cannot infer a lambda with a default


def issues_between_sources(tree: Any) -> Iterator[Issue]:
    """One deployer each, a route that exists, and one source for each route."""
    sources = tree.get("sources") if isinstance(tree, dict) else None
    names = _route_names(tree)
    seen: set[str] = set()
    for index, source in enumerate(sources if isinstance(sources, list) else ()):
        mlflow = source.get("mlflow") if isinstance(source, dict) else None
        if not isinstance(mlflow, dict):
            continue
        here: tuple[str | int, ...] = ("sources", index, "mlflow")
        deployer = mlflow.get("deployer")
        kinds = ("endpoints", "template", "command", "model_server")
        if isinstance(deployer, dict) and sum(deployer.get(kind) is not None for kind in kinds) != 1:
            yield Issue((*here, "deployer"), f"needs exactly one of {', '.join(kinds)}", "keep one, or add one")
        route = mlflow.get("route")
        if not isinstance(route, str):
            continue
        if names is not None and route not in names:
            yield Issue((*here, "route"), f"there is no route {show(route)}", "name one of `routes`")
        if route in seen:
            yield Issue((*here, "route"), f"a second source for route {show(route)}", "one source a route")
        seen.add(route)


def _route_names(tree: Any) -> set[str] | None:
    """The names of all routes, None where one of them cannot be known."""
    routes = tree.get("routes") if isinstance(tree, dict) else None
    names = (
        [one.get("name") if isinstance(one, dict) else None for one in routes] if isinstance(routes, list) else [None]
    )
    try:
        return {grammar.route_name(name if isinstance(name, str) else "") for name in names}
    except BadValue:
        return None


def token_of(mlflow: MlflowConfig, environ: Mapping[str, str] = os.environ) -> str | None:
    """The token for the registry, None without one. Raises BadValue when it cannot be had."""
    return None if mlflow.token_env is None else _variable(mlflow.token_env, environ)


def secret_of(mlflow: MlflowConfig, environ: Mapping[str, str] = os.environ) -> bytes | None:
    """The secret of the registry's webhook as it was given there, None without one. Raises BadValue."""
    if mlflow.webhook_secret_env is None:
        return None
    secret = _variable(mlflow.webhook_secret_env, environ)
    key_of(secret)
    return secret.encode()


def _variable(name: str, environ: Mapping[str, str]) -> str:
    found = environ.get(name, "").strip()
    if not found:
        raise BadValue(f"the environment variable {name} is not set", "set it, or remove the key")
    return found
