"""What a backend serves: a model's version as registries name it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelVersion:
    """A version of a model: its name and version in the registry, where its artifact is, and the artifact's digest."""

    name: str = ""
    version: str = ""
    uri: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """Name and version, and the beginning of the digest.

        >>> str(ModelVersion("digits", "7", digest="sha256:0123456789abcdef")), str(ModelVersion(version="7"))
        ('digits 7 (sha256:0123456789ab)', '7')
        """
        named = f"{self.name} {self.version}".strip() or self.uri
        kind, _, value = self.digest.rpartition(":")
        return f"{named} ({kind}:{value[:12]})" if self.digest else named
