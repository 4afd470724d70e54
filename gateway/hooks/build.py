"""From the configuration to an outbox and gates."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from gateway.config.hooks import GateConfig, HookConfig, key_of, webhook_secret, webhook_url
from gateway.hooks.command import Command
from gateway.hooks.counters import HookCounters
from gateway.hooks.delivery import Receiver
from gateway.hooks.envelope import FORMATS, Transition
from gateway.hooks.gates import Gate
from gateway.hooks.outbox import Hook, Outbox
from gateway.runtime.clock import Clock

if TYPE_CHECKING:
    from gateway.hooks.webhook import Webhook


def build_outbox(
    hooks: Iterable[HookConfig],
    clock: Clock,
    remember: Callable[[str, Transition], Awaitable[object]],
    counters: HookCounters,
    environ: Mapping[str, str] = os.environ,
) -> Outbox:
    """The outbox of the configured hooks. Raises BadValue for a secret that is gone since the file was checked."""
    built = [
        Hook(
            name=hook.name,
            receiver=_receiver(hook, environ),
            write=FORMATS[hook.format],
            kinds=None if hook.transitions is None else frozenset(hook.transitions),
            routes=None if hook.routes is None else frozenset(hook.routes),
            give_up_s=hook.give_up_s,
        )
        for hook in hooks
    ]
    return Outbox(built, clock, remember, counters=counters)


def build_gates(gates: Iterable[GateConfig], environ: Mapping[str, str] = os.environ) -> list[Gate]:
    """The configured gates. Raises BadValue as `build_outbox` does."""
    return [Gate(gate.name, _webhook(gate, environ), gate.interval_s) for gate in gates]


def _receiver(hook: HookConfig, environ: Mapping[str, str]) -> Receiver:
    if hook.command is not None:
        return Command(hook.command, hook.timeout_s)
    return _webhook(hook, environ)


def _webhook(one: HookConfig | GateConfig, environ: Mapping[str, str]) -> Webhook:
    from gateway.hooks.webhook import Webhook  # noqa: PLC0415  # only where one is configured: see there

    url, secret = webhook_url(one, environ), webhook_secret(one, environ)
    assert url is not None  # the configuration's rules: one of url, url_env and command is given
    return Webhook(url, one.timeout_s, None if secret is None else key_of(secret))
