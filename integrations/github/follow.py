"""The action's one step: start, follow with annotations, summary and outputs, and an exit status that says the verdict.

Everything comes from the environment, so that nothing of the inputs is ever a part of a command. Exit status: 0
promoted, 1 the gateway refused or cannot be reached, 3 undecided, 4 rolled back.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from pathlib import Path

from gateway.client import ApiError, Client, RolloutBody, WaitTimeoutError

STATUS = {"PROMOTED": 0, "ROLLED_BACK": 4}


def main(environ: dict[str, str]) -> int:
    """Run the step; returns its exit status."""
    client = Client(environ["GATEWAY_URL"], environ.get("GATEWAY_TOKEN") or None, actor="github")
    try:
        rollout = client.start_rollout(environ["CANARY_ROUTE"], **asked(environ))
        try:
            rollout = client.wait(rollout, float(environ.get("CANARY_TIMEOUT_S") or 3600), annotate)
        except WaitTimeoutError as timeout:
            rollout = timeout.rollout
    except ApiError as error:
        say("error", "Canary rollout refused", str(error))
        return 1
    report(rollout, environ)
    return STATUS.get(rollout.phase, 3)


def asked(environ: dict[str, str]) -> dict[str, object]:
    """The arguments of `Client.start_rollout`."""
    found: dict[str, object] = {
        "retry": environ.get("CANARY_RETRY", "").lower() == "true",
        "idempotency_key": key(environ),
        "reason": f"{environ.get('GITHUB_SERVER_URL', '')}/{environ.get('GITHUB_REPOSITORY', '')}"
        f"/actions/runs/{environ.get('GITHUB_RUN_ID', '')}",
    }
    if version := environ.get("CANARY_VERSION"):
        found |= {"version": version, "endpoints": environ.get("CANARY_ENDPOINTS", "").split()}
        found |= {key: environ.get(f"CANARY_{key.upper()}", "") for key in ("model", "uri", "digest")}
    return found


def key(environ: dict[str, str]) -> str | None:
    """What names this start: the run and job, and what they start, so that one job can roll out several routes."""
    given = environ.get("CANARY_KEY")
    if not given:
        return None
    asked_for = "\0".join(environ.get(f"CANARY_{name}", "") for name in ("ROUTE", "VERSION", "RETRY"))
    return f"{given[:200]}-{hashlib.sha256(asked_for.encode()).hexdigest()[:16]}"


def annotate(rollout: RolloutBody) -> None:
    """One annotation for each decision."""
    level = {"ROLLED_BACK": "error", "PAUSED": "warning", "WITHDRAWN": "warning"}.get(rollout.phase, "notice")
    say(level, f"{rollout.route}: {rollout.phase} at {rollout.canary_percent:g} %", rollout.reason)


def say(level: str, title: str, text: str) -> None:
    """A workflow command; what would end or continue it is escaped."""
    for raw, escaped in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        title, text = title.replace(raw, escaped), text.replace(raw, escaped)
    title = title.replace(":", "%3A").replace(",", "%2C")
    print(f"::{level} title={title}::{text}", flush=True)


def report(rollout: RolloutBody, environ: dict[str, str]) -> None:
    """The outputs of the step, and its summary."""
    outputs = {"rollout": rollout.id, "phase": rollout.phase, "reason": rollout.reason}
    # A delimiter that no reason can hold: what the gateway says must not become another output.
    end = secrets.token_hex(16)
    append(environ.get("GITHUB_OUTPUT"), "".join(f"{key}<<{end}\n{text}\n{end}\n" for key, text in outputs.items()))
    append(environ.get("GITHUB_STEP_SUMMARY"), summary(rollout))


def summary(rollout: RolloutBody) -> str:
    """The rollout and its evidence as Markdown."""
    model = f" ({rollout.model})" if rollout.model else ""
    lines = [
        f"### Canary {cell(rollout.phase)}: {cell(rollout.route)}",
        "",
        f"`{cell(rollout.canary)}`{cell(model)} against `{cell(rollout.stable or 'nothing')}`: {cell(rollout.reason)}",
        "",
        "| metric | verdict | stable | canary |",
        "|---|---|---|---|",
    ]
    for one in rollout.analysis.findings if rollout.analysis else ():
        stable = f"{one.stable_events} of {one.stable_trials}"
        canary = f"{one.canary_events} of {one.canary_trials}"
        lines.append(f"| {cell(one.metric)} | {one.verdict} | {stable} | {canary} |")
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Text that stays in its cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;").replace("`", "'")


def append(path: str | None, text: str) -> None:
    """Add to one of the runner's files."""
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    sys.exit(main(dict(os.environ)))
