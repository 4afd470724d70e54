"""What can go wrong between a version in a registry and its rollout."""

from __future__ import annotations


class RegistryError(Exception):
    """The registry cannot be reached, or answers nothing that can be used. Later it may."""


class RefusedVersionError(Exception):
    """A version that cannot be rolled out, and why."""


class DeployError(RefusedVersionError):
    """The version could not be deployed, and why."""


class ExternalError(Exception):
    """What splits a route, or where its requests are counted, cannot be reached or used now. Later it may."""
