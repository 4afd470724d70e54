"""An InferenceService as the Kubernetes API shows it: how it splits its requests, and the patch that changes it. Pure.

Rules:

1. *Serverless*: `spec.predictor.canaryTrafficPercent` goes to the newest revision, the rest to the one rolled out last.
   A promotion removes the field; a rollback sets it to 0.
2. *Raw* (`spec.canary`, one entry): `trafficPercent` of the entry. A promotion makes its predictor that of the service
   and removes the entry, so that its Deployment goes on as it is; a rollback sets it to 0 and leaves the entry.
3. What the gateway has done is remembered beside the object (`Memory`), not in its annotations: KServe passes those on
   to the pods, which would make another revision of each patch. Nothing is touched that no rollout of this gateway
   began, and an end is carried out once.
4. A promotion is of the revision that the rollout began with: where a newer one has taken its place, it is refused. A
   rollback gives the newest one nothing, whichever that is.
5. Each patch names the version of the object that it was made for; another writer in between makes it fail.

Sources: KServe API v1beta1 (InferenceServiceSpec, ComponentStatusSpec, CanarySpec, CanaryStatus), RFC 7386.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.config.actuators import KserveMode
from gateway.integrations.errors import ExternalError

PROMOTED, ROLLED_BACK = "promoted", "rolled_back"


class WantedSplit(NamedTuple):
    """What a rollout wants of the split: the canary's percent, or its end."""

    rollout: str
    percent: int
    end: str = ""


class Seen(NamedTuple):
    """How an InferenceService splits its requests. ``percent`` is what is declared, ``served`` what is in force.

    ``canary`` is empty where there is no second version.
    """

    stable: str
    canary: str
    ready: bool
    percent: int
    served: int | None
    version: str


class Memory(msgspec.Struct, frozen=True):
    """The last rollout that was applied: its id, the revision that it is about, and its end once that was applied."""

    rollout: str = ""
    revision: str = ""
    end: str = ""


class SplitChange(NamedTuple):
    """What is to be done (None: nothing), and what is remembered then: of an end afterwards, of all else before."""

    patch: dict[str, Any] | None
    memory: Memory


def read(service: Mapping[str, Any], mode: KserveMode) -> Seen:
    """How the service splits its requests. Raises ExternalError for what is no such service."""
    try:
        return _raw(service) if mode is KserveMode.RAW else _serverless(service)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ExternalError("the InferenceService cannot be read: is it one of serving.kserve.io/v1beta1?") from None


def change(
    service: Mapping[str, Any], seen: Seen, wanted: WantedSplit, memory: Memory, mode: KserveMode
) -> SplitChange:
    """What makes it as wanted. Raises ExternalError where that cannot be."""
    ours = memory.rollout == wanted.rollout
    if wanted.end:
        if not ours or memory.end == wanted.end:
            return SplitChange(None, memory)
        done = Memory(memory.rollout, memory.revision, wanted.end)
        return SplitChange(_ending(service, seen, wanted, memory, mode), done)
    if ours and memory.end:
        return SplitChange(None, memory)
    if not seen.canary:
        raise ExternalError(_NO_CANARY[mode])
    began = memory if ours else Memory(wanted.rollout, seen.canary)
    if seen.canary != began.revision:
        raise ExternalError(_REPLACED.format(seen.canary, began.revision))
    if seen.percent == wanted.percent:
        return SplitChange(None, began)
    return SplitChange(_patch(seen, _spec(service, wanted.percent, mode)), began)


def _ending(
    service: Mapping[str, Any], seen: Seen, wanted: WantedSplit, memory: Memory, mode: KserveMode
) -> dict[str, Any] | None:
    promoted = seen.stable == memory.revision
    if wanted.end == PROMOTED:
        if promoted:
            return None
        if seen.canary != memory.revision:
            raise ExternalError(_REPLACED.format(seen.canary or "nothing", memory.revision))
        return _patch(seen, _promotion(service, mode))
    if promoted and mode is KserveMode.RAW:
        raise ExternalError(
            f"{memory.revision} was promoted already and its predecessor removed: apply the former predictor by hand"
        )
    if not promoted and (not seen.canary or seen.percent == 0):
        return None
    return _patch(seen, _spec(service, 0, mode))


_REPLACED = (
    "{} has taken the place of {}, which the rollout is about: abort the rollout, and start one for the new version"
)
_NO_CANARY = {
    KserveMode.SERVERLESS: (
        "the InferenceService has no new revision: apply the new model together with canaryTrafficPercent: 0"
    ),
    KserveMode.RAW: "the InferenceService has no spec.canary: apply the new model there with trafficPercent: 0",
}


def _serverless(service: Mapping[str, Any]) -> Seen:
    declared = service["spec"]["predictor"].get("canaryTrafficPercent")
    status = service.get("status", {}).get("components", {}).get("predictor", {})
    created, rolled_out = status.get("latestCreatedRevision", ""), status.get("latestRolledoutRevision", "")
    canary = "" if created == rolled_out or not rolled_out else created
    served = [
        int(one.get("percent") or 0)
        for one in status.get("traffic", ())
        if one.get("latestRevision") or one.get("revisionName") == created
    ]
    return Seen(
        stable=rolled_out or created,
        canary=canary,
        ready=bool(created) and status.get("latestReadyRevision") == created,
        percent=100 if declared is None else int(declared),
        served=sum(served) if served else None,
        version=str(service["metadata"]["resourceVersion"]),
    )


def _raw(service: Mapping[str, Any]) -> Seen:
    name, predictor = service["metadata"]["name"], service["spec"]["predictor"]
    entries = service["spec"].get("canary") or ()
    if len(entries) > 1:
        raise ExternalError("the InferenceService has several entries in spec.canary: a rollout compares two versions")
    entry = entries[0] if entries else {}
    canary = entry["predictor"]["name"] if entry else ""
    known = [one for one in service.get("status", {}).get("canaryStatuses") or () if one.get("name") == canary]
    percent = int(entry.get("trafficPercent") or 0)
    served = known[0].get("trafficPercent", percent) if known else None
    return Seen(
        stable=_deployment(name, predictor.get("name", "")),
        canary=_deployment(name, canary) if canary else "",
        ready=any(one.get("ready") for one in known),
        percent=percent,
        served=None if served is None else int(served),
        version=str(service["metadata"]["resourceVersion"]),
    )


def _deployment(service: str, predictor: str) -> str:
    return f"{service}-{predictor}-predictor" if predictor else f"{service}-predictor"


def _patch(seen: Seen, spec: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": seen.version}, "spec": spec}


def _promotion(service: Mapping[str, Any], mode: KserveMode) -> dict[str, Any]:
    if mode is KserveMode.SERVERLESS:
        return {"predictor": {"canaryTrafficPercent": None}}
    # A merge patch lays the entry's predictor over the stable one, as KServe itself does for the canary.
    return {"predictor": service["spec"]["canary"][0]["predictor"], "canary": None}


def _spec(service: Mapping[str, Any], percent: int, mode: KserveMode) -> dict[str, Any]:
    if mode is KserveMode.SERVERLESS:
        return {"predictor": {"canaryTrafficPercent": percent}}
    return {"canary": [dict(entry) | {"trafficPercent": percent} for entry in service["spec"]["canary"]]}
