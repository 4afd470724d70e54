"""One model in a Git repository: a GTO stage, or a revision, asks for rollouts; a promotion assigns another stage.

Rules:

1. With ``stage`` the newest assignment (`digits#canary#3`) is a request for a rollout of its commit's version. With
   ``rev`` the file that this revision pins is one. Each request is answered once: a rollout, or a refusal. A request
   whose file stable serves already needs neither.
2. A tag that is removed asks for nothing, and does not bring back the assignment before it. A tag that is made again is
   another request. Assignments that were overtaken before they were seen start nothing.
3. While another version's rollout is under way the plan says what happens, as for every source.
4. A version that cannot be served is refused before any traffic. A repository or remote that is away, damaged or not
   complete yet raises an alarm and is asked again.
5. A promotion runs ``promotion_command``, unless ``promoted_stage`` stands on the commit already: so a command that was
   killed, or whose success was not noted, is not repeated. While it fails there is an alarm, and it is run again.
   A version whose registration is removed while it is on canary keeps its rollout (its file is here); there is nothing
   to assign then, and the command is not run.
6. What was answered and settled is in a file (memory.py), and a rollout names the request that it answers in its
   model's URI. So a restart at any moment repeats nothing and forgets nothing.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from gateway.config.sources import DvcConfig
from gateway.control.views import RolloutView
from gateway.core.model_version import ModelVersion
from gateway.core.rollout.types import Phase
from gateway.integrations.download import downloads
from gateway.integrations.dvc import gto
from gateway.integrations.dvc.clone import RepositoryClone, Tag
from gateway.integrations.dvc.memory import RequestMemory
from gateway.integrations.dvc.pins import Pin, in_manifest, pin_of, remote_of
from gateway.integrations.dvc.remotes import Remote, fetch, manifest, remote_at
from gateway.integrations.errors import RefusedVersionError, RegistryError
from gateway.integrations.rollouts import RouteRollouts
from gateway.runtime.programs import ProgramError, run_program

_OTHER_CHARS = re.compile(r"[^A-Za-z0-9._-]+")


class RolloutRequest(NamedTuple):
    """A version that is asked for. ``key`` tells this request from all others of the source."""

    version: str
    commit: str
    order: int
    key: str
    why: str


class DvcSource:
    """Works off what there is to do, one `step` at a time."""

    def __init__(
        self,
        config: DvcConfig,
        clone: RepositoryClone,
        memory: RequestMemory,
        rollouts: RouteRollouts,
        token: str | None,
    ) -> None:
        self.config = config
        self._clone = clone
        self._memory = memory
        self._rollouts = rollouts
        self._token = token
        followed = config.rev if config.stage is None else f"{config.name}#{config.stage}"
        self._subject = f"{config.repo} {config.path} {followed}"

    async def close(self) -> None:
        """Nothing is open between two steps."""

    async def step(self) -> None:
        """Look once, and do what is to be done. Raises RegistryError and OSError, after which nothing is lost."""
        await self._clone.fetch()
        tags = await self._clone.tags()
        request = await self._request(tags)
        arriving = None if request is None else self._named(request, "")
        await self._rollouts.drop_unneeded(arriving)
        ours = [view for view in self._rollouts.views() if self._is_ours(view)]
        for view in ours[:10]:
            if Phase(view.phase).terminal and not self._memory.is_settled(view.id):
                await self._settle(view, tags)
        if request is None or self._memory.answered(self._subject, request.order, request.key):
            return
        latest = next(iter(ours), None)
        if latest is not None and latest.model is not None and latest.model.uri == self._named(request, "").uri:
            # Its rollout began, and this process ended before that was noted.
            await self._answered(request)
        elif not self._rollouts.must_wait(request.version):
            await self._begin(request)

    async def _request(self, tags: list[Tag]) -> RolloutRequest | None:
        """What is asked for now."""
        config = self.config
        if config.stage is not None:
            found = gto.assignment(tags, config.name, config.stage)
            if found is None:
                return None
            tag = found.tag
            version = gto.version_at(tags, config.name, tag.commit) or tag.commit[:12]
            return RolloutRequest(
                version, tag.commit, found.counter, f"{tag.name}@{tag.object[:12]}", f"tag {tag.name}"
            )
        assert config.rev is not None  # one of both is given
        commit = await self._clone.commit_of(config.rev)
        pin = await self._pin_of(commit)
        digest = f"{pin.md5.removesuffix('.dir')[:12]}"
        version = gto.version_at(tags, config.name, commit) or digest
        return RolloutRequest(version, commit, 0, f"{config.rev}@{digest}", f"{config.rev} pins {digest}")

    async def _pin_of(self, commit: str) -> Pin:
        """The pin; with ``rev`` a revision that pins nothing is a state of the repository, and may change."""
        try:
            return await pin_of(self._clone, commit, self.config.path)
        except RefusedVersionError as error:
            raise RegistryError(str(error)) from None

    def _named(self, request: RolloutRequest, digest: str) -> ModelVersion:
        uri = f"dvc:{self.config.path}?{request.key}#{request.commit[:12]}"
        return ModelVersion(self.config.name, request.version, uri, digest)

    def _is_ours(self, view: RolloutView) -> bool:
        return view.model is not None and view.model.uri.startswith(f"dvc:{self.config.path}?")

    async def _answered(self, request: RolloutRequest) -> None:
        await self._memory.answer(self._subject, request.order, request.key)

    # a version arrives

    async def _begin(self, request: RolloutRequest) -> None:
        try:
            await self._roll_out(request)
        except RefusedVersionError as error:
            await self._rollouts.refuse(self._named(request, ""), str(error))
        await self._answered(request)

    async def _roll_out(self, request: RolloutRequest) -> None:
        """Fetch, deploy and start it, unless stable serves it."""
        remote: Remote | None = None
        try:
            pin = await pin_of(self._clone, request.commit, self.config.path)
            if pin.below or self._rollouts.needs_file:
                remote = await self._remote(request.commit)
            model = self._named(request, f"md5:{await self._md5(pin, remote)}")
            serving = self._rollouts.serving()
            if serving is not None and serving.digest == model.digest:
                self._rollouts.tell("serving", request.version, f"{request.why}: stable serves this file already")
                return
            self._refuse_changed(model)
            file = None
            if remote is not None and self._rollouts.needs_file:
                file = await self._fetch(remote, pin, model)
            tried = any(view.model is not None and view.model.version == model.version for view in self._ours())
            await self._rollouts.start(model, file, retry=tried, reason=f"{request.why} of {self.config.repo}")
        finally:
            if remote is not None:
                await remote.close()

    def _ours(self) -> list[RolloutView]:
        return [view for view in self._rollouts.views() if self._is_ours(view)]

    async def _remote(self, commit: str) -> Remote:
        url = self.config.remote or await remote_of(self._clone, commit, self.config.path)
        return remote_at(url, self.config.timeout_s, self._token)

    async def _md5(self, pin: Pin, remote: Remote | None) -> str:
        """The MD5 of the model's file."""
        if not pin.below or remote is None:
            return pin.md5
        name = PurePosixPath(pin.below).name
        return next(one.md5 for found, one in in_manifest(await manifest(remote, pin), pin) if found == name)

    def _refuse_changed(self, model: ModelVersion) -> None:
        for view in self._ours():
            known = view.model
            if known is not None and known.version == model.version and known.digest != model.digest:
                raise RefusedVersionError(
                    f"version {model.version} had the digest {known.digest} when it was rolled out, and has"
                    f" {model.digest} now: register a new version"
                )

    async def _fetch(self, remote: Remote, pin: Pin, model: ModelVersion) -> Path:
        folder, name = self._folder(model), PurePosixPath(self.config.path).name
        most = self.config.artifact_bytes_max
        async with downloads(folder, most) as taken:
            await fetch(remote, pin, name, taken, most)
        return folder / name

    def _folder(self, model: ModelVersion) -> Path:
        """Different for two versions with the same content: each is removed on its own."""
        return self._rollouts.folder(f"{_OTHER_CHARS.sub('-', model.version)}-{model.digest.rpartition(':')[2][:12]}")

    # a rollout has ended

    async def _settle(self, view: RolloutView, tags: list[Tag]) -> None:
        assert view.model is not None  # it is one of ours
        if Phase(view.phase) is not Phase.PROMOTED:
            await self._rollouts.clear(view, self._folder(view.model))
        elif self.config.promotion_command is not None:
            await self._assign(view, view.model, self.config.promotion_command, tags)
        await self._memory.settle(view.id)

    async def _assign(self, view: RolloutView, model: ModelVersion, command: list[str], tags: list[Tag]) -> None:
        commit, stage = model.uri.rpartition("#")[2], self.config.promoted_stage
        standing = gto.assignment(tags, self.config.name, stage)
        if standing is not None and standing.tag.commit.startswith(commit):
            return
        if gto.was_removed(tags, model.name, model.version, commit):
            # The command would fail for ever, and keep the next version from its rollout.
            why = f"the tag {model.name}@{model.version} was removed: promotion_command is not run"
            self._rollouts.tell("deleted", model.version, why)
            return
        known = {"name": model.name, "version": model.version, "commit": commit, "stage": stage, "rollout": view.id}
        try:
            await run_program(
                [argument.format(**known) for argument in command], b"", self.config.command_timeout_s, quoted=True
            )
        except ProgramError as error:
            raise RegistryError(
                f"version {model.version} was promoted, and promotion_command failed: {error}"
            ) from None
        self._rollouts.tell("assigned", model.version, f"{model.name}#{stage} by {command[0]}")
