"""From the configuration to an outbox and gates."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from gateway.config.alert_receivers import EmailConfig, PagerDutyConfig
from gateway.config.hooks import (
    GateConfig,
    HookConfig,
    MessageFormat,
    key_of,
    mail_password,
    routing_key,
    webhook_secret,
    webhook_url,
)
from gateway.hooks.chat import slack, teams
from gateway.hooks.command import Command
from gateway.hooks.counters import HookCounters
from gateway.hooks.delivery import Receiver
from gateway.hooks.envelope import Message, Transition, cloudevent
from gateway.hooks.gates import Gate
from gateway.hooks.outbox import Hook, Outbox
from gateway.hooks.pagerduty import DEFAULT_KINDS, REFUSED_FOR_GOOD, pagerduty
from gateway.runtime.clock import Clock

if TYPE_CHECKING:
    from gateway.hooks.webhook import Webhook

_FORMATS: Mapping[MessageFormat, Callable[[Transition, str], Message]] = {
    MessageFormat.CLOUDEVENTS: cloudevent,
    MessageFormat.SLACK: slack,
    MessageFormat.TEAMS: teams,
}


def build_outbox(
    hooks: Iterable[HookConfig],
    clock: Clock,
    remember: Callable[[str, Transition], Awaitable[object]],
    counters: HookCounters,
    *,
    links: str = "",
    environ: Mapping[str, str] = os.environ,
) -> Outbox:
    """The outbox of the configured hooks. Raises BadValue for a secret that is gone since the file was checked.

    ``links`` is the address under which people reach the admin listener; messages lead to the rollout in its console.
    """
    return Outbox([_hook(hook, links, environ) for hook in hooks], clock, remember, counters=counters)


def build_gates(gates: Iterable[GateConfig], environ: Mapping[str, str] = os.environ) -> list[Gate]:
    """The configured gates. Raises BadValue as `build_outbox` does."""
    return [Gate(gate.name, _webhook(gate, environ), gate.interval_s) for gate in gates]


def _hook(hook: HookConfig, links: str, environ: Mapping[str, str]) -> Hook:
    write: Callable[[Transition], Message] = partial(_written, _FORMATS[hook.format], links)
    kinds = None if hook.transitions is None else frozenset(hook.transitions)
    receiver: Receiver
    if hook.pagerduty is not None:
        write = partial(pagerduty, links=links, routing_key=routing_key(hook.pagerduty, environ))
        kinds = DEFAULT_KINDS if kinds is None else kinds
        receiver = _pagerduty(hook.pagerduty, hook.timeout_s)
    elif hook.email is not None:
        from gateway.hooks.mail import email  # noqa: PLC0415  # only where it is configured: as the webhook's client

        write = partial(email, links=links, sender=hook.email.sender, to=hook.email.to)
        receiver = _mail_server(hook.email, hook.timeout_s, environ)
    elif hook.command is not None:
        receiver = Command(hook.command, hook.timeout_s)
    else:
        receiver = _webhook(hook, environ)
    routes = None if hook.routes is None else frozenset(hook.routes)
    return Hook(hook.name, receiver, write, kinds, routes, hook.give_up_s)


def _written(form: Callable[[Transition, str], Message], links: str, transition: Transition) -> Message:
    return form(transition, links)


def _pagerduty(service: PagerDutyConfig, timeout_s: float) -> Receiver:
    from gateway.hooks.webhook import Webhook  # noqa: PLC0415  # only where one is configured: see there

    return Webhook(service.url, timeout_s, refused_for_good=REFUSED_FOR_GOOD)


def _mail_server(mail: EmailConfig, timeout_s: float, environ: Mapping[str, str]) -> Receiver:
    from gateway.hooks.mail import MailServer  # noqa: PLC0415  # as above

    password = mail_password(mail, environ)
    login = None if mail.username is None or password is None else (mail.username, password)
    host, port = mail.server.host, mail.server.port
    return MailServer(host, port, mail.security.value, mail.sender, mail.to, timeout_s, login)


def _webhook(one: HookConfig | GateConfig, environ: Mapping[str, str]) -> Webhook:
    from gateway.hooks.webhook import Webhook  # noqa: PLC0415  # only where one is configured: see there

    url, secret = webhook_url(one, environ), webhook_secret(one, environ)
    assert url is not None  # the configuration's rules: one of the ways to reach a receiver is given
    return Webhook(url, one.timeout_s, None if secret is None else key_of(secret))
