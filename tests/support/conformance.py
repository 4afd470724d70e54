"""The admin API's description as schemathesis reads it. Its import takes seconds: only the test that uses it pays."""

from __future__ import annotations

from typing import Any, ClassVar

import schemathesis
from schemathesis.checks import CHECKS, load_all_checks

from gateway.admin.openapi import document

load_all_checks()
NEGATIVE = "negative_data_rejection"
CHECKED: Any = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        NEGATIVE,
    ]
)
# Two more than its own list: the state may have passed, and a body may be too large.
REFUSED = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422", "429"]
CHECKS_CONFIG = {"checks": {NEGATIVE: {"expected-statuses": REFUSED}}}
# The description's own links, and no others that might be guessed.
CHAINS_CONFIG = {"phases": {"stateful": {"inference": {"algorithms": []}}}, "generation": {"mode": "positive"}}
_SCHEMA = schemathesis.openapi.from_dict(document(), config=schemathesis.Config.from_dict(CHECKS_CONFIG))
OPERATIONS: list[Any] = [one.ok() for one in _SCHEMA.get_all_operations()]  # type: ignore[union-attr]  # ours are valid
BY_NAME = {operation.definition.raw["operationId"]: operation for operation in OPERATIONS}
_CHAINED = schemathesis.openapi.from_dict(document(), config=schemathesis.Config.from_dict(CHAINS_CONFIG))


GenerationMode = schemathesis.GenerationMode


class Chain(_CHAINED.as_state_machine()):  # type: ignore[misc]  # made at run time
    """One chain: a start, then what the links of each answer lead to, against the one gateway."""

    url = token = ""
    begun = sent = 0
    tried: ClassVar[set[str]] = set()
    granted: ClassVar[set[str]] = set()
    broken: ClassVar[list[str]] = []

    def setup(self) -> None:
        """Every chain begins with the file's configuration, and with no rollout under way."""
        Chain.begun += 1
        self.reset()

    def reset(self) -> None:
        """Set by the test."""

    def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
        """How a request is sent."""
        return {"base_url": self.url, "headers": {"authorization": f"Bearer {self.token}"}, "timeout": 20}

    def before_call(self, case: schemathesis.Case) -> None:
        """Names that are made up lead nowhere; what is made under these is there for what follows."""
        name = case.operation.definition.raw["operationId"]
        case.headers.pop("If-Match", None)  # a tag that is made up is refused, always
        if case.path_parameters.get("route", "r") not in ("r", "late"):
            case.path_parameters["route"] = "r"
        if case.path_parameters.get("backend", "late") not in ("stable", "canary", "late"):
            case.path_parameters["backend"] = "stable"
        if name == "put_backend":
            case.path_parameters["backend"], case.body = "late", {"endpoints": ["http://10.1.2.3:8000"], "probe": None}
        elif name == "put_route":
            late: Any = {"match": {"path_prefix": "/late"}, "stable": "stable", "canary": "canary"}
            case.path_parameters["route"], case.body = "late", late
        elif name == "start_rollout":
            case.body = {"retry": True, "plan": {"steps": [{"percent": 5}, {"percent": 50, "gate": "manual"}]}}
        elif "wait_s" in (case.query or {}):
            case.query["wait_s"] = 0.01

    def validate_response(self, response: Any, case: schemathesis.Case, **_: Any) -> None:
        """As for single requests; and the gateway still runs."""
        name = case.operation.definition.raw["operationId"]
        Chain.sent += 1
        self.tried.add(name)
        if response.status_code < 300:
            self.granted.add(name)
        try:
            case.validate_response(response, checks=[check for check in CHECKED if check.__name__ != NEGATIVE])
        except Exception as broken:
            self.broken.append(f"{case.method} {case.formatted_path}: {broken}")
            raise


def linked() -> set[str]:
    """The operations that links lead to."""
    answers = (answer for operation in OPERATIONS for answer in operation.definition.raw["responses"].values())
    return {name for answer in answers for name in answer.get("links", {})}
