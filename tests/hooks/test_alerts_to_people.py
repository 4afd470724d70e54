"""PagerDuty and e-mail: what arrives over real sockets, repeated messages, and servers that refuse or hang."""

from __future__ import annotations

import base64
import dataclasses
import email
import email.policy
import json
import ssl
from pathlib import Path

import msgspec
import pytest

from gateway.config.load import load
from gateway.config.schema import GatewayConfig
from gateway.control.views import RolloutView
from gateway.core.analysis import Finding, Verdict
from gateway.hooks.build import build_outbox
from gateway.hooks.chat import slack, teams
from gateway.hooks.counters import HookCounters
from gateway.hooks.delivery import NotDeliveredError
from gateway.hooks.envelope import Transition
from gateway.hooks.mail import MailServer
from gateway.hooks.mail import email as email_of
from gateway.hooks.outbox import Outbox
from gateway.hooks.summary import summary
from gateway.runtime.clock import SystemClock
from tests.hooks.receiver import WebReceiver, reply
from tests.hooks.smtp_server import MailReceiver
from tests.hooks.transitions import transition
from tests.support.certificates import Authority

pytestmark = pytest.mark.anyio

LINKS = "https://gateway.example"
KEY = "R" + "0" * 31
CONFIG = """\
state_dir: state
admin: {public_url: "https://gateway.example/"}
backends: {v1: {endpoints: ["http://127.0.0.1:1"]}, v2: {endpoints: ["http://127.0.0.1:2"]}}
routes: [{name: r, match: {path_prefix: /}, stable: v1, canary: v2}]
hooks:
"""


def decided(kind: str = "rolled_back", revision: int = 3) -> Transition:
    """A rollback with its numbers."""
    plain = transition(revision, kind)
    assert plain.view.analysis is not None
    errors = Finding("errors", Verdict.FAIL, "", True, 8.0, -3.0, 5, 1500, 30, 143)
    quiet = Finding("latency", Verdict.UNDECIDED, "", True, 0.5, 2.0, 0, 9, 0, 9)
    analysis = msgspec.structs.replace(
        plain.view.analysis, findings=(quiet, errors), log_e_bad=8.0, log_e_bad_needed=6.363
    )
    view: RolloutView = dataclasses.replace(plain.view, analysis=analysis, canary_requests=143)
    return msgspec.structs.replace(plain, view=view)


def configuration(directory: Path, hook: str) -> GatewayConfig:
    path = directory / "gateway.yaml"
    path.write_text(CONFIG + hook)
    return load(path, environ={"KEY": KEY})


def outbox_of(config: GatewayConfig) -> Outbox:
    async def remember(hook: str, sent: Transition) -> None: ...

    return build_outbox(config.hooks, SystemClock(), remember, HookCounters(), links=LINKS, environ={"KEY": KEY})


def test_the_three_numbers_and_the_rollouts_address_are_in_every_message_for_people() -> None:
    told = summary(decided(), LINKS)
    assert told.headline == "r: rollout r-1 rolled back"
    assert told.numbers == (
        ("errors", "canary 21 % of 143, stable 0.333 % of 1,500"),
        ("Evidence", "1 in 3,000 for a canary that is not worse (rolled back at 1 in 580)"),
        ("Traffic", "5 % of requests, step 1 of 1, 143 canary requests"),
    )
    assert told.link == f"{LINKS}/#/rollouts/r-1", "a page that opens without a token"
    mail = email.message_from_bytes(email_of(decided(), LINKS, "g@x.org", ["a@x.org"]).body, policy=email.policy.SMTP)
    texts = (
        slack(decided(), LINKS).body.decode(),
        teams(decided(), LINKS).body.decode(),
        str(mail.get_body().get_content()),  # type: ignore[union-attr]  # a text message has a body
    )
    for text in texts:
        assert told.link in text and all(value in text for _, value in told.numbers)


def test_a_promotion_shows_the_evidence_that_it_is_good() -> None:
    told = dict(summary(decided("promoted"), "").numbers)
    assert told["Evidence"] == "1 in 1 for a canary worse by the margin (good enough at 1 in 20)"
    assert summary(decided("promoted"), "").link == ""


@pytest.mark.parametrize(
    "shape",
    [
        "url: 'http://127.0.0.1:1/', format: cloudevents",
        "url: 'http://127.0.0.1:1/', format: slack",
        "url: 'http://127.0.0.1:1/', format: teams",
        "pagerduty: {routing_key_env: KEY}",
        "email: {server: '127.0.0.1:25', security: none, sender: g@x.org, to: [a@x.org]}",
    ],
)
def test_every_shape_is_one_message_a_decision_with_a_name_that_repeats(tmp_path: Path, shape: str) -> None:
    (built,) = outbox_of(configuration(tmp_path, f"  - {{name: h, {shape}}}\n")).hooks
    decisions = [decided("paused", 4), decided("resumed", 5), decided("rolled_back", 6)]
    assert all(built.wants(one) for one in decisions)
    messages = [built.write(one) for one in decisions]
    assert [built.write(one) for one in decisions] == messages, "what is sent again is the same"
    assert len({message.id for message in messages}) == len({message.body for message in messages}) == 3


async def test_pagerduty_gets_one_alert_a_rollout_however_often_it_is_told(tmp_path: Path) -> None:
    async with WebReceiver(lambda _: reply(202, b'{"status":"success"}')) as service:
        hook = f"  - {{name: oncall, pagerduty: {{routing_key_env: KEY, url: '{service.url}'}}}}\n"
        (built,) = outbox_of(configuration(tmp_path, hook)).hooks
        sent = [decided(), decided(), decided("paused", 4), decided("resumed", 5), decided("advanced", 6)]
        for one in sent:
            if built.wants(one):
                await built.receiver.deliver(built.write(one))
    events = [json.loads(one.body) for one in service.received]
    assert [event["event_action"] for event in events] == ["trigger", "trigger", "trigger", "resolve"]
    assert {event["dedup_key"] for event in events} == {"canary-gateway/r-1"}
    assert events[0] == events[1]
    first = events[0]
    assert first["routing_key"] == KEY and first["links"][0]["href"] == first["client_url"]
    payload = first["payload"]
    assert (payload["severity"], payload["source"], payload["class"]) == ("error", "r", "rolled_back")
    assert events[2]["payload"]["severity"] == "warning"
    assert payload["custom_details"]["errors"].startswith("canary 21 % of 143")
    assert all(len(event.get("payload", {}).get("summary", "")) <= 1024 for event in events)


@pytest.mark.parametrize(("status", "again"), [(400, False), (429, True), (500, True)])
async def test_an_event_that_is_wrong_is_not_sent_for_ever(tmp_path: Path, status: int, again: bool) -> None:
    async with WebReceiver(lambda _: reply(status, b'{"status":"invalid event"}')) as service:
        hook = f"  - {{name: oncall, pagerduty: {{routing_key_env: KEY, url: '{service.url}'}}}}\n"
        (built,) = outbox_of(configuration(tmp_path, hook)).hooks
        with pytest.raises(NotDeliveredError) as caught:
            await built.receiver.deliver(built.write(decided()))
    assert caught.value.again is again
    assert KEY not in str(caught.value)


async def test_a_mail_arrives_with_an_id_that_repeats(tmp_path: Path) -> None:
    async with MailReceiver() as server:
        address = f"127.0.0.1:{server.port}"
        mail = f"{{server: '{address}', security: none, sender: g@x.org, to: [a@x.org, b@x.org]}}"
        hook = f"  - {{name: mail, email: {mail}}}\n"
        (built,) = outbox_of(configuration(tmp_path, hook)).hooks
        for _ in range(2):
            await built.receiver.deliver(built.write(decided()))
    first, second = (email.message_from_bytes(mail.body, policy=email.policy.SMTP) for mail in server.received)
    assert (server.received[0].sender, server.received[0].to) == ("g@x.org", ["a@x.org", "b@x.org"])
    assert first["Message-ID"] == second["Message-ID"] == "<r-1.3@canary-gateway>"
    assert (first["References"], first["Auto-Submitted"]) == ("<r-1@canary-gateway>", "auto-generated")
    assert first["Subject"] == "[canary] r: rollout r-1 rolled back"
    assert first["Date"].datetime.isoformat() == "2026-11-23T08:00:00+00:00"


async def test_a_login_goes_over_tls_only_to_a_server_whose_certificate_is_good(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("127.0.0.1", file="mail")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(pair.cert, pair.key)
    async with MailReceiver(tls=served) as server:
        arguments = ("127.0.0.1", server.port, "starttls", "g@x.org", ["a@x.org"], 20.0, ("me", "secret"))
        message = email_of(decided(), "", "g@x.org", ["a@x.org"])
        with pytest.raises(NotDeliveredError, match="CERTIFICATE_VERIFY_FAILED"):
            await MailServer(*arguments).deliver(message)
        assert not server.received
        await MailServer(*arguments, ssl.create_default_context(cafile=authority.pair.cert)).deliver(message)
    assert server.tls_used
    assert base64.b64decode(server.received[0].login) == b"\0me\0secret"


@pytest.mark.parametrize(
    ("answers", "again", "words"),
    [
        ({"RCPT": "550 no such user"}, False, "refused all recipients"),
        ({"RCPT": "450 try later"}, True, "refused all recipients"),
        ({".": "554 looks like spam"}, False, "554 looks like spam"),
        ({"MAIL": "451 busy"}, True, "451 busy"),
        ({"HELLO": "554 go away"}, False, "554 go away"),
        ({"HELLO": None}, True, "timed out after"),
        ({".": None}, True, "timed out after"),
    ],
)
async def test_a_refusal_says_why_and_whether_to_try_again(
    answers: dict[str, str | None], again: bool, words: str
) -> None:
    async with MailReceiver(answers) as server:
        receiver = MailServer(
            "127.0.0.1", server.port, "none", "g@x.org", ["a@x.org"], 0.5 if None in answers.values() else 20.0
        )
        with pytest.raises(NotDeliveredError, match=words) as caught:
            await receiver.deliver(email_of(decided(), "", "g@x.org", ["a@x.org"]))
    assert caught.value.again is again


async def test_a_server_that_is_not_there_is_no_delivery() -> None:
    async with MailReceiver() as server:
        port = server.port
    with pytest.raises(NotDeliveredError, match="ConnectionRefusedError"):
        await MailServer("127.0.0.1", port, "none", "g@x.org", ["a@x.org"], 20.0).deliver(
            email_of(decided(), "", "g@x.org", ["a@x.org"])
        )


def test_nothing_that_a_model_says_makes_a_header() -> None:
    evil = transition(reason="x\r\nBcc: everybody@x.org\r\n\r\n<script>")
    mail = email.message_from_bytes(email_of(evil, "", "g@x.org", ["a@x.org"]).body, policy=email.policy.SMTP)
    assert "Bcc" not in mail and mail["To"] == "a@x.org"
