"""The section ``sources``: registries that start rollouts by themselves, and how a version of theirs gets endpoints.

Secrets come from the environment, never from this file, which is read, copied and shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
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


_GTO_NAME = r"^[A-Za-z0-9][A-Za-z0-9_./:-]*$"
_COMMAND_FIELDS = frozenset({"name", "version", "commit", "stage", "rollout"})
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./#@+=-]*")
_REPOSITORY_URL = re.compile(r"(https?|ssh|git|file)://\S+|[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+:\S+")


def _repository(text: str) -> str:
    if not (text.startswith("/") or _REPOSITORY_URL.fullmatch(text)) or not text.isprintable():
        raise BadValue(
            f"{show(text)} is no Git repository", "write an absolute path, https://..., ssh://... or git@HOST:..."
        )
    return text


def _repository_path(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or str(path) != text or text == "." or not text.isprintable():
        raise BadValue(
            f"{show(text)} is not a path inside the repository",
            "write it relative to its root, such as models/digits.onnx",
        )
    return text


def _revision(text: str) -> str:
    if not _REVISION.fullmatch(text) or ".." in text:
        raise BadValue(f"{show(text)} is no revision", "name a branch, a tag or a commit")
    return text


def _command_template(text: str) -> str:
    hint = f"known are {', '.join(f'{{{name}}}' for name in sorted(_COMMAND_FIELDS))}; write {{{{ and }}}} for braces"
    try:
        fields = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise BadValue(f"{show(text)} is not a template: {error}", hint) from None
    if unknown := fields - _COMMAND_FIELDS:
        raise BadValue(f"{show(text)} has unknown fields {sorted(unknown)}", hint)
    return text


RepositoryUrl = Annotated[str, AfterValidator(_repository), Noun("a Git repository")]
RepositoryPath = Annotated[str, AfterValidator(_repository_path), Noun("a path in the repository")]
Revision = Annotated[str, AfterValidator(_revision), Noun("a revision")]
CommandTemplate = Annotated[str, AfterValidator(_command_template), Field(min_length=1, max_length=4096), Noun("text")]


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


class DvcConfig(Section):
    """One model in a Git repository whose files DVC pins, and the route that serves it."""

    repo: Annotated[
        RepositoryUrl, Doc("The Git repository: an absolute path, or a URL (`https`, `ssh`, `git@HOST:...`).")
    ]
    path: Annotated[
        RepositoryPath, Doc("The ONNX file in the repository, as DVC tracks it: alone, by a pipeline, or in a folder.")
    ]
    name: Annotated[
        str,
        Field(pattern=_GTO_NAME, max_length=200),
        Noun("a name"),
        Doc("The model's name in GTO's tags, with `FOLDER:` before it where GTO has that."),
    ]
    route: Annotated[RouteName, Doc("The route that its versions are rolled out on.")]
    stage: Annotated[
        Annotated[str, Field(pattern=_GTO_NAME, max_length=200), Noun("a stage's name")] | None,
        Doc("The GTO stage whose assignment (`gto assign`) asks for a rollout. Exactly one of `stage` and `rev`."),
    ] = None
    rev: Annotated[
        Revision | None, Doc("A branch, tag or commit to follow instead: a new pin of `path` there asks for a rollout.")
    ] = None
    remote: Annotated[
        Annotated[str, AfterValidator(grammar.printable), Field(min_length=1, max_length=2048)] | None,
        Doc(
            "The DVC remote: a directory, or an `http(s)` or `s3` URL (`s3` needs the extra of that name). `null`: the "
            "repository's default remote."
        ),
    ] = None
    deployer: Annotated[DeployerConfig, Doc("As for `mlflow`.")] = DeployerConfig(model_server=ModelServerConfig())
    promotion_command: Annotated[
        Annotated[list[CommandTemplate], Field(min_length=1, max_length=100)] | None,
        Doc(
            'Run after a promotion, without a shell, to assign `promoted_stage`, such as `[gto, assign, "{name}", '
            '--version, "{version}", --stage, "{stage}"]`. `{commit}` and `{rollout}` are known too.'
        ),
    ] = None
    promoted_stage: Annotated[
        str,
        Field(pattern=_GTO_NAME, max_length=200),
        Noun("a stage's name"),
        Doc("`{stage}` of the command, which is not run where this stage stands on the version's commit already."),
    ] = "prod"
    command_timeout_s: Annotated[Seconds, Doc("`promotion_command` is killed after this time, and run again.")] = 600.0
    poll_s: Annotated[Seconds, Doc("How often the repository is fetched.")] = 30.0
    timeout_s: Annotated[Seconds, Doc("Timeout of one git command, and of one request to the remote.")] = 60.0
    artifact_bytes_max: Annotated[Bytes, Doc("A version whose files are larger in all is refused.")] = 2 << 30
    token_env: Annotated[
        EnvironmentName | None, Doc("Environment variable with the bearer token for an HTTP remote.")
    ] = None


class SourceConfig(Section):
    """One source. Exactly one key."""

    mlflow: Annotated[MlflowConfig | None, Doc("A registered model of an MLflow server.")] = None
    dvc: Annotated[DvcConfig | None, Doc("A model in a Git repository with DVC and GTO.")] = None

    @property
    def kind(self) -> MlflowConfig | DvcConfig:
        """The one that is given."""
        found = self.mlflow or self.dvc
        assert found is not None  # `issues_between_sources` has checked it
        return found


def source_issues(sources: Iterable[SourceConfig], environ: Mapping[str, str]) -> Iterator[Issue]:
    """What is wrong with what the sources have in the environment."""
    for index, source in enumerate(sources):
        if source.mlflow is not None:
            here: tuple[str | int, ...] = ("sources", index, "mlflow")
            yield from issues_in((*here, "token_env"), partial(token_of, source.mlflow, environ))
            yield from issues_in((*here, "webhook_secret_env"), partial(secret_of, source.mlflow, environ))
        elif source.dvc is not None:
            yield from issues_in(("sources", index, "dvc", "token_env"), partial(token_of, source.dvc, environ))


def issues_between_sources(tree: Any) -> Iterator[Issue]:
    """One kind and one deployer each, a route that exists, and one source for each route."""
    sources = tree.get("sources") if isinstance(tree, dict) else None
    names = route_names(tree)
    seen: set[str] = set()
    for index, source in enumerate(sources if isinstance(sources, list) else ()):
        if not isinstance(source, dict):
            continue
        kinds = [kind for kind in SourceConfig.model_fields if source.get(kind) is not None]
        if len(kinds) != 1:
            known = ", ".join(SourceConfig.model_fields)
            yield Issue(("sources", index), f"needs exactly one of {known}", "keep one, or add one")
            continue
        section = source[kinds[0]]
        here = ("sources", index, kinds[0])
        if not isinstance(section, dict):
            continue
        yield from _section_issues(here, section)
        route = section.get("route")
        if not isinstance(route, str):
            continue
        if names is not None and route not in names:
            yield Issue((*here, "route"), f"there is no route {show(route)}", "name one of `routes`")
        if route in seen:
            yield Issue((*here, "route"), f"a second source for route {show(route)}", "one source a route")
        seen.add(route)


def _section_issues(here: tuple[str | int, ...], section: dict[str, Any]) -> Iterator[Issue]:
    """What is wrong between the keys of one source."""
    deployer = section.get("deployer")
    ways = ("endpoints", "template", "command", "model_server")
    if isinstance(deployer, dict) and sum(deployer.get(way) is not None for way in ways) != 1:
        yield Issue((*here, "deployer"), f"needs exactly one of {', '.join(ways)}", "keep one, or add one")
    if here[-1] == "dvc" and (section.get("stage") is None) == (section.get("rev") is None):
        yield Issue(here, "needs exactly one of stage and rev", "name the GTO stage, or a revision to follow")


def route_names(tree: Any) -> set[str] | None:
    """The names of all routes, None where one of them cannot be known."""
    routes = tree.get("routes") if isinstance(tree, dict) else None
    names = (
        [one.get("name") if isinstance(one, dict) else None for one in routes] if isinstance(routes, list) else [None]
    )
    try:
        return {grammar.route_name(name if isinstance(name, str) else "") for name in names}
    except BadValue:
        return None


def token_of(source: MlflowConfig | DvcConfig, environ: Mapping[str, str] = os.environ) -> str | None:
    """The token for the registry or remote, None without one. Raises BadValue when it cannot be had."""
    return None if source.token_env is None else _variable(source.token_env, environ)


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
