"""A bare copy of the repository in the state directory: fetched as a whole, read by git's own command.

Nothing is written to the repository itself. What cannot be fetched is tried again later (`RegistryError`), with what
git said.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from gateway.integrations.errors import RegistryError
from gateway.runtime.programs import ProgramError, run_program

_SMALL_BYTES_MAX = 4 << 20
# For private repositories: how OpenSSH finds its agent, and what the operator says of git's connections.
_PASSED = ("SSH_AUTH_SOCK", "GIT_SSH_COMMAND", "GIT_ASKPASS", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")
_ENVIRON = {
    # Nobody is there to type a password.
    "GIT_TERMINAL_PROMPT": "0",
    # Transports that run programs are for people alone.
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C.UTF-8",
}


class Tag(NamedTuple):
    """A tag: its name, the object that is new each time it is made, and the commit."""

    name: str
    object: str
    commit: str


class RepositoryClone:
    """The copy of one repository. ``folder`` is its place."""

    def __init__(self, repo: str, folder: Path, timeout_s: float) -> None:
        self.repo = repo
        self._folder = folder
        self._timeout_s = timeout_s

    async def fetch(self) -> None:
        """Take over all branches and tags as they are now. Raises RegistryError."""
        if not (self._folder / "HEAD").exists():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            await self._git("init", "--quiet", "--bare", str(self._folder))
        await self._git(
            *("fetch", "--quiet", "--prune", "--force", "--no-write-fetch-head", "--end-of-options", self.repo),
            *("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"),
        )

    async def tags(self) -> list[Tag]:
        """All tags. Raises RegistryError."""
        form = "%(refname:strip=2)%00%(objectname)%00%(*objectname)"
        lines = (await self._git("for-each-ref", f"--format={form}", "refs/tags")).decode("utf-8", "replace")
        found = []
        for line in lines.splitlines():
            name, made, commit = line.split("\0")
            found.append(Tag(name, made, commit or made))
        return found

    async def commit_of(self, rev: str) -> str:
        """The commit that a branch, a tag or a part of a commit's id stands for. Raises RegistryError."""
        try:
            found = await self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
        except RegistryError:
            raise RegistryError(f"there is no revision {rev}: name a branch, a tag or a commit") from None
        return found.decode().strip()

    async def files(self, commit: str, paths: list[str]) -> dict[str, bytes]:
        """The contents of those of these files that the commit has. Raises RegistryError."""
        listed = await self._git("ls-tree", "-l", "-z", commit, "--", *paths)
        found = {}
        for line in listed.decode("utf-8", "replace").split("\0"):
            about, _, path = line.partition("\t")
            fields = about.split()
            if len(fields) == 4 and fields[1] == "blob" and int(fields[3]) <= _SMALL_BYTES_MAX:
                found[path] = await self._git("cat-file", "blob", fields[2])
        return found

    async def _git(self, *arguments: str) -> bytes:
        command = ["git", "--git-dir", str(self._folder), "--literal-pathspecs", *arguments]
        environ = _ENVIRON | {name: os.environ[name] for name in _PASSED if name in os.environ}
        try:
            return await run_program(command, b"", self._timeout_s, environ=environ, quoted=True)
        except ProgramError as error:
            raise RegistryError(f"git {arguments[0]}: {error}") from None
