"""The sections ``hooks`` and ``gates``: who is notified of a rollout, and who is asked whether it may go on.

Exactly one of ``url``, ``url_env``, ``command``, ``pagerduty`` and ``email`` says where a message goes. A signing
secret comes from the environment or a file (secret_values.py); an address that is a secret, as those of Slack and Teams
are, can come from the environment too. A secret that begins with ``whsec_`` is base64 after it, any other is taken as
it stands (Standard Webhooks 1.0).
"""

from __future__ import annotations

import base64
import binascii
import enum
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field

from gateway.config import grammar
from gateway.config.alert_receivers import EmailConfig, PagerDutyConfig, WebhookUrl
from gateway.config.errors import BadValue, Issue, TreePath, issues_in, show
from gateway.config.secret_values import needed_secret, secret, variable
from gateway.config.section import EnvironmentName, FilePath, RouteName, Seconds, Section
from gateway.config.shape import Doc, Noun
from gateway.core.rollout.types import NOTIFY_KINDS

HOOKS_MAX = 100
_PREFIX = "whsec_"
SECRET_BYTES_MIN = 16


class MessageFormat(enum.StrEnum):
    """How a transition is written."""

    CLOUDEVENTS = "cloudevents"
    SLACK = "slack"
    TEAMS = "teams"


def _kind(text: str) -> str:
    if text not in NOTIFY_KINDS:
        raise BadValue(f"{show(text)} is not a transition", f"use one of {', '.join(NOTIFY_KINDS)}")
    return text


TransitionKind = Annotated[str, AfterValidator(_kind), Noun("a transition's name")]
Argument = Annotated[str, Field(min_length=1, max_length=4096), Noun("text")]


def _gate_name(text: str) -> str:
    if text in ("manual", "canary"):
        raise BadValue(f"{show(text)} is reserved in plans", "give the gate another name")
    return text


class GateConfig(Section):
    """Somebody who is asked whether a rollout may go on; ``plan.steps[].gate`` and ``plan.promotion_gate`` name it."""

    name: Annotated[
        RouteName, AfterValidator(_gate_name), Doc("The name that plans use. Unique, and not `manual` or `canary`.")
    ]
    url: Annotated[
        WebhookUrl | None,
        Doc(
            'Where to ask, by POST. A 2xx answer opens the gate; `{"passed": false}` in it pauses the rollout; '
            'anything else means "not yet".'
        ),
    ] = None
    url_env: Annotated[
        EnvironmentName | None, Doc("Environment variable that holds the URL. Exactly one of the two.")
    ] = None
    secret_env: Annotated[EnvironmentName | None, Doc("As for hooks.")] = None
    secret_file: Annotated[FilePath | None, Doc("As for hooks.")] = None
    interval_s: Annotated[Seconds, Doc("Time between two requests while the gate is closed.")] = 10.0
    timeout_s: Annotated[Seconds, Doc("Timeout of one request.")] = 10.0


class HookConfig(Section):
    """One receiver."""

    name: Annotated[
        RouteName,
        Doc("Its name in the log and in metrics. Unique: the journal keeps each receiver's position under it."),
    ]
    url: Annotated[
        WebhookUrl | None,
        Doc(
            "Where to POST. Exactly one of `url`, `url_env`, `command`, `pagerduty` and `email`. Redirects are not "
            "followed."
        ),
    ] = None
    url_env: Annotated[
        EnvironmentName | None,
        Doc("Environment variable that holds the URL, for those that are secrets themselves (Slack's and Teams' are)."),
    ] = None
    command: Annotated[
        Annotated[list[Argument], Field(min_length=1, max_length=100)] | None,
        Doc("Program and arguments, run without a shell. The message is its standard input; status 0 means delivered."),
    ] = None
    pagerduty: Annotated[
        PagerDutyConfig | None,
        Doc("A PagerDuty service. A rollback or a pause triggers an alert, one a rollout; what ends it resolves it."),
    ] = None
    email: Annotated[EmailConfig | None, Doc("A mail server, and who gets a message.")] = None
    format: Annotated[
        MessageFormat,
        Field(strict=False),
        Doc("The format of the message to a URL or a command. PagerDuty and e-mail have their own."),
    ] = MessageFormat.CLOUDEVENTS
    secret_env: Annotated[
        EnvironmentName | None,
        Doc(
            "Environment variable with the secret that signs each request (Standard Webhooks: `webhook-signature`), "
            "16 bytes or more."
        ),
    ] = None
    secret_file: Annotated[FilePath | None, Doc("File with the secret. Not together with `secret_env`.")] = None
    transitions: Annotated[
        Annotated[list[TransitionKind], Field(min_length=1)] | None,
        Doc(
            "Only these transitions, such as `promoted` and `rolled_back`; `null` means all, and for PagerDuty those "
            "that open or close an alert."
        ),
    ] = None
    routes: Annotated[
        Annotated[list[RouteName], Field(min_length=1)] | None, Doc("Only these routes; `null` means all.")
    ] = None
    timeout_s: Annotated[Seconds, Doc("Timeout of one attempt.")] = 10.0
    give_up_s: Annotated[
        Seconds, Doc("A message that cannot be delivered for this long is dropped, counted and logged.")
    ] = 86_400.0


def key_of(secret: str) -> bytes:
    """The key that a secret stands for (Standard Webhooks). Raises BadValue for one that protects nothing."""
    hint = "make one with: openssl rand -base64 32"
    try:
        coded = secret.startswith(_PREFIX)
        key = base64.b64decode(secret[len(_PREFIX) :], validate=True) if coded else secret.encode()
    except binascii.Error:
        raise BadValue(f"what follows {_PREFIX} is not base64", hint) from None
    if len(key) < SECRET_BYTES_MIN:
        raise BadValue(f"it has {len(key)} bytes, at least {SECRET_BYTES_MIN} are needed", hint)
    return key


def webhook_url(hook: HookConfig | GateConfig, environ: Mapping[str, str] = os.environ) -> str | None:
    """Where the hook's messages are posted, None for a command. Raises BadValue when it cannot be had."""
    if hook.url_env is None:
        return hook.url
    try:
        return grammar.web_url(variable(hook.url_env, environ).strip())
    except BadValue as bad:
        # Without the grammar's words: they quote the value, which is a secret.
        problem = f"the environment variable {hook.url_env} is not an http(s) URL"
        raise bad if hook.url_env not in environ else BadValue(problem, "set it to the receiver's URL") from None


def webhook_secret(hook: HookConfig | GateConfig, environ: Mapping[str, str] = os.environ) -> str | None:
    """The secret that signs the hook's messages, None without one. Raises BadValue when it cannot be had."""
    text = secret(hook.secret_env, hook.secret_file, environ)
    return None if text is None else _long_enough(text, hook.secret_env or str(hook.secret_file))


def routing_key(service: PagerDutyConfig, environ: Mapping[str, str] = os.environ) -> str:
    """The integration key of a PagerDuty service. Raises BadValue when it cannot be had."""
    return needed_secret(service.routing_key_env, service.routing_key_file, environ)


def mail_password(mail: EmailConfig, environ: Mapping[str, str] = os.environ) -> str | None:
    """The password for the mail server, None where nobody logs in. Raises BadValue when it cannot be had."""
    return None if mail.username is None else needed_secret(mail.password_env, mail.password_file, environ)


def hook_issues(
    hooks: Iterable[HookConfig], gates: Iterable[GateConfig], environ: Mapping[str, str]
) -> Iterator[Issue]:
    """What is wrong with what the hooks and gates have outside the file."""
    places: list[tuple[TreePath, HookConfig | GateConfig]] = [
        *((("hooks", i), hook) for i, hook in enumerate(hooks)),
        *((("gates", i), g) for i, g in enumerate(gates)),
    ]
    for path, one in places:
        ways: tuple[tuple[str, Callable[[HookConfig | GateConfig, Mapping[str, str]], object]], ...] = (
            ("url_env", webhook_url),
            ("secret_env" if one.secret_env is not None else "secret_file", webhook_secret),
        )
        for key, read in ways:
            yield from issues_in((*path, key), partial(read, one, environ))
        if isinstance(one, HookConfig) and one.pagerduty is not None:
            yield from issues_in((*path, "pagerduty"), partial(routing_key, one.pagerduty, environ))
        if isinstance(one, HookConfig) and one.email is not None:
            yield from issues_in((*path, "email"), partial(mail_password, one.email, environ))


def _long_enough(text: str, where: str) -> str:
    try:
        key_of(text)
    except BadValue as bad:
        raise BadValue(f"the secret in {where} is invalid: {bad.problem}", bad.hint) from None
    return text
