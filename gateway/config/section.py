"""What the sections of the configuration are made of: the closed section itself, and the types of single values.

A section that is long enough for a module of its own (`gateway/config/admin.py`, ...) imports from here; `schema` puts
them together.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationInfo

from gateway.config import grammar
from gateway.config.errors import BadValue, show
from gateway.config.grammar import Address, Network, UnixSocket
from gateway.config.shape import Noun
from gateway.core.errors import InvalidValueError
from gateway.core.traffic.table import Endpoint
from gateway.core.types import weight_bp_from_percent

DEFAULT_LISTEN = Address("127.0.0.1", 8080)
DEFAULT_ADMIN = Address("127.0.0.1", 9900)
YEAR_S = 31_536_000


def in_basis_points(percent: float) -> float:
    """A percentage that is no finer than weights are; BadValue otherwise."""
    try:
        weight_bp_from_percent(percent)
    except InvalidValueError:
        raise BadValue(f"{show(percent)} is finer than 0.01", f"write {max(percent, 0.01):.2f}") from None
    return percent


def _leaves_a_control(percent: float) -> float:
    """A verdict compares concurrent requests; at 100 % stable has none."""
    if percent >= 100:
        raise BadValue(
            "a step of 100 % leaves no requests on stable to compare with",
            "use less, such as 50: a promotion goes to 100 % by itself, and bake_s watches the version there",
        )
    return percent


def _beside_the_file(value: object, info: ValidationInfo) -> Path:
    """A path relative to the configuration file, whose directory is the validation's context."""
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        raise BadValue(f"{show(value)} is not text", "use a path, absolute or relative to this file")
    return Path(info.context or "") / grammar.file_path(value)


Seconds = Annotated[float, Field(gt=0, le=YEAR_S), Noun("a number of seconds")]
Milliseconds = Annotated[float, Field(ge=0, le=YEAR_S), Noun("a number of milliseconds")]
Percentage = Annotated[float, Field(ge=0, le=100), AfterValidator(in_basis_points), Noun("a percentage")]
StepPercentage = Annotated[
    float,
    Field(gt=0, le=100),
    AfterValidator(in_basis_points),
    AfterValidator(_leaves_a_control),
    Noun("a percentage"),
]
Probability = Annotated[float, Field(gt=0, lt=1), Noun("a probability")]
Share = Annotated[float, Field(ge=0, le=1), Noun("a share")]
Ratio = Annotated[float, Field(ge=1, le=1000), Noun("a ratio")]
Bytes = Annotated[int, Field(ge=1, le=1 << 40), Noun("a number of bytes")]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
CountOrNone = Annotated[int, Field(ge=0, le=1_000_000)]

ListenAddress = Annotated[
    InstanceOf[Address], BeforeValidator(grammar.parsed_by(grammar.address, Address)), Noun("host:port")
]
AdminAddress = Annotated[
    InstanceOf[Address] | InstanceOf[UnixSocket],
    BeforeValidator(grammar.parsed_by(grammar.admin_address, Address, UnixSocket)),
    Noun("host:port, or unix:/path"),
]
EndpointUrl = Annotated[
    InstanceOf[Endpoint], BeforeValidator(grammar.parsed_by(grammar.endpoint, Endpoint)), Noun("an http(s) URL")
]
Cidr = Annotated[
    Network, BeforeValidator(grammar.parsed_by(grammar.network, IPv4Network, IPv6Network)), Noun("an address range")
]
FilePath = Annotated[Path, BeforeValidator(_beside_the_file), Noun("a path")]
EnvironmentName = Annotated[str, AfterValidator(grammar.environment_name), Noun("an environment variable's name")]
RouteName = Annotated[str, AfterValidator(grammar.route_name), Noun("a name of a-z, 0-9 and hyphens")]
BackendName = Annotated[str, AfterValidator(grammar.backend_name), Noun("a backend's name")]
PathPrefix = Annotated[str, AfterValidator(grammar.path_prefix), Noun("a path")]
ProbePath = Annotated[str, AfterValidator(grammar.probe_path), Noun("a path")]
RouteHost = Annotated[str, AfterValidator(grammar.route_host), Noun("a host name")]
HeaderName = Annotated[str, AfterValidator(grammar.header_name), Noun("a header's name")]
CookieName = Annotated[str, AfterValidator(grammar.cookie_name), Noun("a cookie's name")]


class Section(BaseModel):
    """Common to all sections: closed, strict, immutable.

    ``core`` is the value that a section becomes (`core_values`). Fields of both that have the same name mean the same;
    what the core measures in other units or names otherwise is said by `to_core`, and the way back by `of_core`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    core: ClassVar[type[msgspec.Struct] | None] = None

    def to_core(self) -> dict[str, Any]:
        """Fields of the core's value that are not keys as they stand."""
        return {}

    @classmethod
    def of_core(cls, value: Any) -> dict[str, Any]:
        """Keys that are not fields of the core's value as they stand, as the file would say them."""
        return {}
