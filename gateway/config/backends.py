"""The section ``backends``: one deployed model version each, how it is reached and how its readiness is asked for."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.backend_connection import BackendTlsConfig, PassiveConfig
from gateway.config.section import (
    Count,
    CountOrNone,
    EndpointUrl,
    EnvironmentName,
    FilePath,
    HeaderName,
    Percentage,
    ProbePath,
    Seconds,
    Section,
)
from gateway.config.shape import Doc, Noun
from gateway.config.traffic import HOST_HEADER, HostHeader
from gateway.core.model_version import ModelVersion
from gateway.core.traffic.table import Backend, RequestChanges, SetHeader

TargetPath = Annotated[str, AfterValidator(grammar.target_path), Noun("a path")]
_BACKEND = Backend(name="", endpoints=())
ModelText = Annotated[str, AfterValidator(grammar.printable), Noun("text on one line")]


class ProbeConfig(Section):
    """How an endpoint's readiness is asked for: ``rise`` answers in a row make it ready, ``fall`` failures unready."""

    path: Annotated[
        ProbePath,
        Doc(
            "What is requested with GET, with the Host that `host_header` says. A 2xx status means ready; any other "
            "answer is a refusal."
        ),
    ] = "/v2/health/ready"
    interval_s: Annotated[Seconds, Doc("Time between two probes of an endpoint.")] = 1.0
    timeout_s: Annotated[
        Seconds,
        Doc("Timeout of one probe. An endpoint whose probes time out stays in use while it answers requests."),
    ] = 1.0
    rise: Annotated[int, Field(ge=1, le=100), Doc("Answers in a row that make an endpoint ready.")] = 2
    fall: Annotated[int, Field(ge=1, le=100), Doc("Failures in a row that make an endpoint unready.")] = 3


class SetHeaderConfig(Section):
    """A header field that the backend gets, in place of the client's of this name."""

    core = SetHeader

    name: Annotated[HeaderName, Doc("Its name. `Host` is what `host_header` says.")]
    prefix: Annotated[
        Annotated[str, Field(max_length=200), AfterValidator(grammar.field_value), Noun("text")],
        Doc("What stands before the value, such as `Bearer ` with its blank."),
    ] = ""
    value: Annotated[
        Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(grammar.field_value), Noun("text")] | None,
        Doc("The value itself, which everybody who reads the configuration sees. Exactly one of the three."),
    ] = None
    value_env: Annotated[
        EnvironmentName | None, Doc("Environment variable that holds the value. In the configuration file only.")
    ] = None
    value_file: Annotated[
        FilePath | None,
        Doc("File that holds the value; a changed file is taken up within a second. In the configuration file only."),
    ] = None


class RequestConfig(Section):
    """What the backend's requests say other than the client's."""

    core = RequestChanges

    path_prefix: Annotated[
        TargetPath | None,
        Doc(
            "A path that begins with this, by whole segments and as the client wrote it, gets `path_replacement` in "
            "its place. Other paths stay as they are, and so do probes."
        ),
    ] = None
    path_replacement: Annotated[
        TargetPath | None, Doc("How such a path begins at the backend; `/` removes the prefix.")
    ] = None
    model: Annotated[
        Annotated[str, Field(min_length=1, max_length=200), AfterValidator(grammar.model_name), Noun("a model's name")]
        | None,
        Doc(
            "The backend's name of the model, in place of the client's: behind `/v1/models/` and `/v2/models/` in the "
            "path, and as `model` of a JSON body. Answers bear the client's again; see docs/data-plane.md."
        ),
    ] = None
    set_headers: Annotated[
        list[SetHeaderConfig], Field(max_length=50), Doc("Header fields that the backend gets, such as an API key.")
    ] = []
    remove_headers: Annotated[
        list[HeaderName], Field(max_length=50), Doc("The client's header fields that the backend does not get.")
    ] = []


class ModelConfig(Section):
    """The model version that a backend serves, as its registry names it."""

    version: Annotated[
        ModelText, Field(min_length=1, max_length=128), Doc("The version, such as `7`. Rollouts and events show it.")
    ]
    name: Annotated[ModelText, Field(max_length=200), Doc("The model's name in the registry.")] = ""
    uri: Annotated[
        ModelText, Field(max_length=2000), Doc("Where the artifact comes from, such as `models:/digits/7`.")
    ] = ""
    digest: Annotated[
        ModelText,
        AfterValidator(grammar.digest),
        Doc("The artifact's digest: `sha256:` or `md5:` and hexadecimal digits."),
    ] = ""

    @property
    def value(self) -> ModelVersion:
        """The value that rollouts, events and metrics show."""
        return ModelVersion(self.name, self.version, self.uri, self.digest)


class BackendConfig(Section):
    """One deployed model version."""

    core = Backend

    endpoints: Annotated[
        list[EndpointUrl],
        Field(min_length=1),
        Doc(
            "Addresses of the version, at least one: `http://` or `https://`, host, and a port unless it is 80 or "
            "443. No path, query or user name."
        ),
    ]
    model: Annotated[
        ModelConfig | None,
        Doc("What the endpoints serve. Shown with rollouts and events, and as the metric `gateway_backend_info`."),
    ] = None
    connections_max: Annotated[Count, Doc("Open connections for each endpoint and worker.")] = _BACKEND.connections_max
    queue_max: Annotated[
        CountOrNone, Doc("Requests of each worker that may wait for a connection; more are answered with 503 at once.")
    ] = _BACKEND.queue_max
    keepalive_s: Annotated[
        Seconds,
        Doc(
            "How long an idle connection is kept. Stay below the backend's own idle timeout (uvicorn: 5 s), or "
            "requests meet a connection that is being closed."
        ),
    ] = _BACKEND.keepalive_s
    host_header: Annotated[
        HostHeader,
        Doc(
            "What the backend sees as `Host`: what the client sent, the endpoint's own host and port, or this host "
            "(`host` or `host:port`)."
        ),
    ] = HOST_HEADER
    request: Annotated[
        RequestConfig | None,
        Doc(
            "What the backend's requests say other than the client's, so that versions with other paths, names or "
            "keys can be two versions of one route."
        ),
    ] = None
    probe: Annotated[
        ProbeConfig | None, Doc("How readiness is probed; `null` turns probing off, and endpoints count as ready.")
    ] = ProbeConfig()
    tls: Annotated[
        BackendTlsConfig | None,
        Doc(
            "For `https` endpoints; their certificates are always verified. `null`: by the system's CAs, for the "
            "endpoint's host."
        ),
    ] = None
    passive: Annotated[
        PassiveConfig, Doc("When live traffic takes an endpoint out of its backend's rotation, in each worker.")
    ] = PassiveConfig()
    resolve_s: Annotated[Seconds, Doc("After this a host name is looked up again. All its addresses take turns.")] = (
        _BACKEND.resolve_s
    )
    resolve_max_age_s: Annotated[
        Seconds,
        Doc("How long the last good addresses serve on while the lookup fails or hangs, for requests and for probes."),
    ] = _BACKEND.resolve_max_age_s
    panic_percent: Annotated[
        Percentage,
        Doc(
            "When fewer than this share of the endpoints are healthy, probes are ignored and all endpoints are used. "
            "When none is healthy, that is always so."
        ),
    ] = _BACKEND.panic_percent
