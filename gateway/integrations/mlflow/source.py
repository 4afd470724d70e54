"""One model of an MLflow server: its aliases ask for rollouts, and their verdicts are written back.

What there is to do is read from two places each time, the registry's aliases and tags and the gateway's rollouts, and
nothing is remembered beside them. So a restart at any moment repeats nothing and forgets nothing.

Rules:

1. The challenger alias on a version without a rollout starts one. While another version's rollout is under way the
   plan says what happens: `on_new_canary: supersede` gives way at once, `refuse` lets the first one end.
2. An ended rollout is written back in this order: champion moved (promoted), challenger removed where it still stands
   on that version, tags with `canary.rollout` last. That tag marks what is done; whatever a crash left is done again,
   with the same result.
3. The alias set again on a version that was rolled back and written back asks for another try.
4. A version that cannot be served is refused before any traffic: tags say why, and its alias is removed.
5. An alias that is moved during a rollout changes nothing of it; at the promotion the champion alias goes to the
   promoted version, wherever it was meanwhile. Afterwards it is the registry's own.
6. A version that is deleted while it is on canary keeps its rollout (its files are here); the write-back is dropped.
"""

from __future__ import annotations

from pathlib import Path

from gateway.config.sources import MlflowConfig
from gateway.control.views import RolloutView
from gateway.core.model_version import ModelVersion
from gateway.core.rollout.types import Phase
from gateway.integrations.errors import RefusedVersionError
from gateway.integrations.mlflow.artifact import DIGEST_TAG, check_inputs, described, fetched
from gateway.integrations.mlflow.registry import RegisteredVersion, Registry
from gateway.integrations.rollouts import REFUSED, RouteRollouts

TAG_ROLLOUT, TAG_VERDICT, TAG_REASON = "canary.rollout", "canary.verdict", "canary.reason"
TAG_REPORT = "canary.report"
_VERDICTS = {Phase.PROMOTED: "promoted", Phase.ROLLED_BACK: "rolled_back", Phase.WITHDRAWN: "withdrawn"}


class MlflowSource:
    """Works off what there is to do, one `step` at a time."""

    def __init__(self, config: MlflowConfig, registry: Registry, rollouts: RouteRollouts) -> None:
        self.config = config
        self._registry = registry
        self._rollouts = rollouts
        # Rollouts whose write-back is known to be done: saves a question for each step.
        self._written: set[str] = set()

    async def close(self) -> None:
        """Close its connections."""
        await self._registry.close()

    async def step(self) -> None:
        """Look once, and do what is to be done. Raises RegistryError and OSError, after which nothing is lost."""
        ours = [view for view in self._rollouts.views() if self._number(view) is not None]
        challenger = await self._registry.version_of(self.config.challenger)
        await self._rollouts.drop_unneeded(None if challenger is None else self._named(challenger.version))
        asked_again = False
        for view in ours[:10]:
            if Phase(view.phase).terminal and view.id not in self._written:
                await self._write_back(view)
        if challenger is not None:
            latest = next((view for view in ours if self._number(view) == challenger.version), None)
            if latest is not None and Phase(latest.phase).terminal:
                # Written back just now, or long ago: what still stands on it was set after that (rule 3).
                challenger = await self._registry.version_of(self.config.challenger)
                asked_again = challenger is not None and challenger.version == self._number(latest)
                if asked_again and self._serves(latest):
                    await self._registry.remove_alias(self.config.challenger)
                    return
            elif latest is not None:
                return
        if challenger is not None and not self._rollouts.must_wait(challenger.version):
            await self._begin(challenger, retry=asked_again)

    def _number(self, view: RolloutView) -> str | None:
        """The version that a rollout is about, if it is one of this model."""
        prefix = f"models:/{self.config.model}/"
        uri = "" if view.model is None else view.model.uri
        return uri.removeprefix(prefix) if uri.startswith(prefix) else None

    def _serves(self, view: RolloutView) -> bool:
        serving = self._rollouts.serving()
        return serving is not None and view.model is not None and serving.uri == view.model.uri

    def _named(self, number: str) -> ModelVersion:
        return ModelVersion(self.config.model, number)

    # a version arrives

    async def _begin(self, challenger: RegisteredVersion, *, retry: bool) -> None:
        why = f"alias {self.config.challenger} of {self.config.model} was set on version {challenger.version}"
        try:
            model, file = await self._fetch(challenger)
            await self._rollouts.start(model, file, retry=retry, reason=why)
        except RefusedVersionError as error:
            await self._refuse(challenger, str(error))

    async def _fetch(self, challenger: RegisteredVersion) -> tuple[ModelVersion, Path | None]:
        """The version's description, and its file where this gateway is to serve it."""
        number = challenger.version
        uri = f"models:/{self.config.model}/{number}"
        expected = challenger.tags.get(DIGEST_TAG, "") or self._known_digest(number)
        if not self._rollouts.needs_file:
            return ModelVersion(self.config.model, number, uri, expected), None
        root = await self._registry.artifact_root(number)
        found = await described(self._registry, root)
        serving = self._rollouts.serving()
        prefix = f"models:/{self.config.model}/"
        if serving is not None and serving.uri.startswith(prefix) and serving.uri != uri:
            there = await self._registry.version(serving.uri.removeprefix(prefix))
            if there is not None:
                check_inputs(found, await described(self._registry, await self._registry.artifact_root(there.version)))
        folder = self._rollouts.folder(number)
        most = self.config.artifact_bytes_max
        artifact = await fetched(self._registry, root, found.model_file, folder, bytes_max=most, expected=expected)
        return ModelVersion(self.config.model, number, uri, artifact.digest), artifact.path

    def _known_digest(self, number: str) -> str:
        """The digest that the version had when it was rolled out before."""
        found = (v for v in self._rollouts.views() if self._number(v) == number and v.model)
        return next((view.model.digest for view in found if view.model), "")

    async def _refuse(self, challenger: RegisteredVersion, why: str) -> None:
        await self._rollouts.refuse(self._named(challenger.version), why)
        await self._registry.tag(challenger.version, {TAG_REASON: why, TAG_VERDICT: REFUSED})
        await self._remove_challenger(challenger.version)

    # a rollout has ended

    async def _write_back(self, view: RolloutView) -> None:
        number, phase = self._number(view), Phase(view.phase)
        assert number is not None
        version = await self._registry.version(number)
        if phase is not Phase.PROMOTED:
            await self._rollouts.clear(view, self._rollouts.folder(number))
        if version is None:
            self._rollouts.tell("deleted", number, "the version was deleted: nothing is written back")
        elif version.tags.get(TAG_ROLLOUT) != view.id and not _newer(version, view):
            if phase is Phase.PROMOTED:
                await self._registry.move_alias(self.config.champion, number)
            await self._remove_challenger(number)
            verdict = _VERDICTS[phase]
            digest = {} if view.model is None or not view.model.digest else {DIGEST_TAG: view.model.digest}
            link = self._rollouts.report_link(view.id)
            report = {TAG_REPORT: link} if link else {}
            await self._registry.tag(
                number,
                {TAG_VERDICT: verdict, TAG_REASON: view.reason, **digest, **report, "canary.ended_at": view.updated_at}
                | {TAG_ROLLOUT: view.id},
            )
            self._rollouts.tell("written_back", number, f"{verdict}: {view.reason}")
        self._written.add(view.id)

    async def _remove_challenger(self, number: str) -> None:
        """Remove the alias where it still stands on this version."""
        standing = await self._registry.version_of(self.config.challenger)
        if standing is not None and standing.version == number:
            await self._registry.remove_alias(self.config.challenger)


def _newer(version: RegisteredVersion, view: RolloutView) -> bool:
    """Whether a later rollout of the same version is written back already."""
    return version.tags.get("canary.ended_at", "") > view.updated_at
