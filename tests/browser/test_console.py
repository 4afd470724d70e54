"""The console in a browser, over a control plane in memory: what is shown, what is refused, what is done."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from gateway.core.analysis.types import Analysis, Finding, Verdict
from tests.browser.relay import Relay

TOKEN = "a-token-of-sixteen-or-more"
OTHER = "another-token-of-sixteen"
HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>\'"&{{7*7}}\u202e'
PAGES = ["", "#/history", "#/fleet", "#/configuration", "#/rollouts/digits-0001"]


def violations(page: Any) -> list[str]:
    """What axe finds, each as rule, place and reason."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']} {node['target']}: {node['failureSummary']}" for one in found for node in one["nodes"]]


def started(served: Any, **more: Any) -> str:
    answer = httpx.post(f"{served.url}/api/v1/routes/digits/rollouts", json=more, headers={"x-actor": "ada"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def evidence() -> Analysis:
    needed = {"log_e_bad_needed": 5.5, "log_e_ok_needed": 3.0, "difference": 0.02, "difference_low": -0.01}
    details = {**needed, "difference_high": 0.05, "margin_high": 0.01, "stable_p50_us": 5000.0, "needed_s": 40.0}
    findings = (
        Finding("errors", Verdict.UNDECIDED, "canary errors 3 of 90", True, 3.2, 1.5, 2, 900, 3, 90, details),
        Finding("latency", Verdict.PASS, "latency is good", True, -0.5, 4.0, 9, 900, 1, 90, details),
        Finding("class_1", Verdict.PASS, "class 1", True, 0.1, 4.0, 90, 900, 9, 90, details),
        Finding("low_confidence", Verdict.UNDECIDED, "x", False, 0.1, 1.0, 90, 900, 9, 90, details),
        Finding("overload", Verdict.PASS, "none", True, 0.0, 4.0, 0, 900, 0, 90, needed),
    )
    return Analysis(Verdict.UNDECIDED, "not proven yet: errors", (), findings, 2.0, 4.6, 3.0, 900, 90)


def with_evidence(served: Any, **more: Any) -> None:
    """Rollouts look as if they had evidence, and whatever else is given."""
    view = served.control.rollout

    def rollout(rollout_id: str) -> Any:
        return dataclasses.replace(view(rollout_id), analysis=evidence(), **more)

    served.control.rollout = rollout


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_every_page_is_within_reach_of_everybody(served: Any, tabs: Any, scheme: str, width: int) -> None:
    started(served)
    with_evidence(served)
    tab = tabs(served.url, color_scheme=scheme, viewport={"width": width, "height": 800})
    for path in PAGES:
        page = tab.open(path)
        expect(page.locator("h1")).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        expect(page.locator(".fresh.live")).to_be_visible()
        assert violations(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    page.get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert violations(page) == [], "the dialog"


def test_a_rollout_can_be_read(served: Any, tabs: Any) -> None:
    rollout_id = started(served)
    with_evidence(served)
    page = tabs(served.url).open(f"#/rollouts/{rollout_id}")
    expect(page.locator("h1")).to_contain_text("Step 1 of 2: no sign of harm, not yet proven good")
    expect(page.locator(".odds")).to_contain_text("It is rolled back at 1 in 100")
    expect(page.locator(".forecast")).to_contain_text("a decision in about 40 s")
    row = page.get_by_role("row", name="errors")
    expect(row.first).to_contain_text("1 in 25")
    expect(row.first).to_contain_text("alone it convicts at 1 in 240")
    expect(page.locator(".ladder li")).to_have_count(3)
    expect(page.locator(".ladder [aria-current=step]")).to_contain_text("1 %")
    page.get_by_role("button", name="latency").click()
    expect(page.locator("tr.chosen")).to_contain_text("latency")


def test_each_button_says_what_will_happen_and_does_it(served: Any, tabs: Any) -> None:
    page = tabs(served.url).open()
    page.get_by_role("button", name="you").click()
    page.get_by_label("Your name").fill("grace hopper")
    page.get_by_role("button", name="Use these").click()

    def do(name: str, says: str, then: str, reason: str = "") -> None:
        page.get_by_role("button", name=name, exact=True).first.click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text(says)
        if reason:
            dialog.get_by_label("Reason").fill(reason)
        dialog.get_by_role("button", name=name, exact=True).click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.locator(".pill").first).to_contain_text(then)

    do("Start rollout", "first step", "progressing", "a new build")
    page.get_by_role("link", name="digits", exact=True).click()
    do("Pause", "stays at 1 %", "paused", "lunch")
    do("Resume", "Automation goes on", "progressing")
    page.get_by_role("button", name="Set weight").click()
    page.get_by_label("Weight in percent").fill("12.5")
    expect(page.get_by_role("dialog")).to_contain_text(
        re.compile(r"12\.5 % of requests will go to digits-v2|requests a minute \(12\.5 %\) will go to digits-v2")
    )
    page.get_by_role("dialog").get_by_role("button", name="Set weight").click()
    expect(page.locator(".pill").first).to_contain_text("paused")
    do("Next step", "without proof", "progressing")
    do("Promote", "whatever the evidence says", "promoted")
    do("Roll back", "All requests go to digits-v1", "rolled back")
    do("Start rollout", "was rolled back here before", "rolled back", "again")
    (newest, *_) = httpx.get(f"{served.url}/api/v1/rollouts").json()["rollouts"]
    assert (newest["phase"], newest["by"]) == ("PROGRESSING", "grace-hopper")
    story = httpx.get(f"{served.url}/api/v1/rollouts/digits-0001/story").json()["decisions"]
    assert {one["by"] for one in story} == {"grace-hopper"} and len(story) == 7
    assert "a new build" in story[0]["reason"] and "lunch" in story[1]["reason"]


def test_a_gate_is_opened_from_the_page(served: Any, tabs: Any) -> None:
    steps = [{"percent": 5, "gate": "manual"}, {"percent": 50}]
    rollout_id = started(served, plan={"steps": steps})
    page = tabs(served.url).open(f"#/rollouts/{rollout_id}")
    expect(page.locator("h1")).to_contain_text("Waiting for the gate “manual”")
    page.get_by_role("button", name="Approve").click()
    page.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(page.locator(".pill").first).to_contain_text("progressing")


def test_of_two_operators_the_second_is_told_what_the_first_did(served: Any, tabs: Any) -> None:
    rollout_id = started(served)
    page = tabs(served.url).open(f"#/rollouts/{rollout_id}")
    page.get_by_role("button", name="Promote").click()
    confirm = page.get_by_role("dialog").get_by_role("button", name="Promote")
    expect(confirm).to_be_enabled()
    httpx.post(f"{served.url}/api/v1/rollouts/{rollout_id}/abort", json={"reason": "pager"}, headers={"x-actor": "ada"})
    confirm.click()
    said = page.get_by_role("dialog").get_by_role("alert")
    expect(said).to_contain_text("Somebody else was faster; nothing was done.")
    expect(said).to_contain_text("ada")
    expect(said).to_contain_text("pager")
    assert httpx.get(f"{served.url}/api/v1/rollouts/{rollout_id}").json()["phase"] == "ROLLED_BACK"


def test_dialogs_are_used_with_the_keyboard_alone(served: Any, tabs: Any) -> None:
    rollout_id = started(served)
    page = tabs(served.url).open(f"#/rollouts/{rollout_id}")
    page.get_by_role("button", name="Pause").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Pause")).to_be_enabled()
    page.get_by_label("Reason").press("Enter")
    expect(page.locator(".pill").first).to_contain_text("paused")


def test_a_lost_stream_shows_its_age_and_catches_up(served: Any, tabs: Any) -> None:
    rollout_id = started(served)
    with Relay(served.port) as relay:
        page = tabs(relay.url).open(f"#/rollouts/{rollout_id}")
        expect(page.locator(".fresh.live")).to_be_visible()
        httpx.post(f"{served.url}/api/v1/rollouts/{rollout_id}/pause")
        expect(page.locator(".pill").first).to_contain_text("paused")
        relay.cut()
        expect(page.locator(".fresh")).to_contain_text("old, reconnecting")
        httpx.post(f"{served.url}/api/v1/rollouts/{rollout_id}/abort", json={"reason": "meanwhile"})
        with page.expect_request(lambda one: "/api/v1/events" in one.url and "last-event-id" in one.headers):
            relay.mend()
            expect(page.locator(".fresh.live")).to_be_visible()
        expect(page.locator(".pill").first).to_contain_text("rolled back")
        expect(page.locator(".story")).to_contain_text("meanwhile")


def test_a_browser_that_slept_for_an_hour_catches_up_without_a_reload(served: Any, tabs: Any) -> None:
    """More happens meanwhile than the stream remembers; the clock jumps as it does when a laptop is opened again."""
    rollout_id = started(served)
    with Relay(served.port) as relay:
        tab = tabs(relay.url)
        tab.page.clock.install()
        page = tab.open(f"#/rollouts/{rollout_id}")
        expect(page.locator(".fresh.live")).to_be_visible()
        page.evaluate("window.opened = true")
        relay.cut()
        expect(page.locator(".fresh.live")).to_have_count(0)
        for number in range(1200):
            served.control.log.publish("health", {"number": number})
        httpx.post(f"{served.url}/api/v1/rollouts/{rollout_id}/abort", json={"reason": "while it slept"})
        relay.mend()
        page.clock.fast_forward("01:00:00")
        expect(page.locator(".fresh.live")).to_be_visible()
        expect(page.locator(".pill").first).to_contain_text("rolled back")
        expect(page.locator(".story")).to_contain_text("while it slept")
        assert page.evaluate("window.opened") is True


def test_each_value_of_the_configuration_says_where_it_comes_from(served: Any, tabs: Any) -> None:
    page = tabs(served.url).open("#/configuration")
    row = page.get_by_role("row", name="backends.spare.endpoints")
    expect(row).to_contain_text("gateway.yaml:7")
    expect(page.get_by_role("row", name="limits.head_bytes_max")).to_contain_text("default")


def test_a_token_is_asked_for_and_kept_nowhere(double: Any, tabs: Any) -> None:
    with double.Served(TOKEN) as served:
        page = tabs(served.url).open()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert violations(page) == []
        page.get_by_label("Token").fill("wrong-token-of-some-length")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("refused")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="digits")).to_be_visible()
        kept = page.evaluate(
            "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href, history.state])"
        )
        assert TOKEN not in kept and TOKEN not in page.content()
        # It is valid no longer.
        served.keyring.replace((double.Key("", (double.Scope.ADMIN,), double.sha256_of(OTHER)),))
        expect(page.get_by_role("alert")).to_contain_text("refused")
        page.get_by_label("Token").fill(OTHER)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="digits")).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_names_and_reasons_are_text(served: Any, tabs: Any) -> None:
    rollout_id = started(served, reason=HOSTILE.replace("\u202e", ""))
    with_evidence(served, canary=HOSTILE, stable=HOSTILE, by=HOSTILE, reason=HOSTILE * 50, causes=(HOSTILE,))
    route = served.control.route
    served.control.route = lambda name: dataclasses.replace(
        route(name),
        stable=HOSTILE,
        canary=HOSTILE,
        decision=HOSTILE,
        decided_at="2026-11-30T11:00:00Z",
        decided_by=HOSTILE,
    )
    tab = tabs(served.url)
    for path in ("", f"#/rollouts/{rollout_id}", "#/history"):
        page = tab.open(path)
        expect(page.get_by_text("<img src=x").first).to_be_attached()
        assert page.evaluate("window.pwned") is None
        assert page.locator("img[src='x'], script:not([src])").count() == 0
    page = tab.open(f"#/rollouts/{rollout_id}")
    page.get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("dialog")).to_contain_text("<img src=x")
    assert page.evaluate("window.pwned") is None


def test_the_report_is_downloaded(served: Any, tabs: Any) -> None:
    rollout_id = started(served)
    page = tabs(served.url, accept_downloads=True).open(f"#/rollouts/{rollout_id}")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download report").click()
    text = download.value.path().read_text("utf-8")
    assert download.value.suggested_filename == f"{rollout_id}.html" and "digits-v2 is at 1 % on digits" in text


def test_hundreds_of_routes_are_paged_and_searched(double: Any, tabs: Any, tmp_path: Any) -> None:
    routes = "".join(
        f"  - {{name: model-{n:03}, match: {{path_prefix: /m/{n}}}, stable: digits-v1, canary: digits-v2}}\n"
        for n in range(500)
    )
    (tmp_path / "gateway.yaml").write_text(double.CONFIG.split("routes:\n")[0] + "routes:\n" + routes)
    with double.Served(directory=tmp_path) as served:
        page = tabs(served.url).open()
        expect(page.locator(".pager")).to_contain_text("50 of 500")
        expect(page.locator(".route")).to_have_count(50)
        page.get_by_role("button", name="Next").click()
        expect(page.locator(".route").first).to_contain_text("model-050")
        page.get_by_role("searchbox").fill("model-499")
        expect(page.locator(".route")).to_have_count(1)
        for _ in range(120):
            assert httpx.post(f"{served.url}/api/v1/routes/model-007/rollouts", json={"retry": True}).status_code == 201
            httpx.post(f"{served.url}/api/v1/rollouts/{served.control.route('model-007').rollout_id}/abort")
        page.get_by_role("link", name="History").click()
        expect(page.locator("tbody tr")).to_have_count(50)
        page.get_by_role("button", name="Show older ones").click()
        expect(page.locator("tbody tr")).to_have_count(100)
        page.get_by_role("searchbox").fill("model-007-0003")
        expect(page.locator("tbody tr")).to_have_count(1)


def test_it_can_be_printed(served: Any, tabs: Any) -> None:
    rollout_id = started(served)
    with_evidence(served)
    page = tabs(served.url).open(f"#/rollouts/{rollout_id}")
    expect(page.locator(".odds")).to_be_visible()
    page.emulate_media(media="print")
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)
    expect(page.locator(".odds")).to_be_visible()
    assert page.pdf().startswith(b"%PDF")
