"""The report as Markdown, for a comment of a pull request or a summary of a step.

What comes from outside cannot become anything but text: no markup, no link, no mention of a person.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.core.numbers import duration, percent
from gateway.report import words
from gateway.report.facts import ReportFacts, effect_of
from gateway.report.markup import clipped

_MARKS = {"PROMOTED": "✅", "ROLLED_BACK": "❌", "RETURNING": "❌", "PAUSED": "⏸️", "WAITING": "⏳"}
_ACTIVE = re.compile(r"[\\`*\[\]<>#|~&@]|://|www\.")
_FINDINGS_MAX, _DECISIONS_MAX = 15, 20
_TEXT_MAX = 400


def markdown(facts: ReportFacts) -> str:
    """The whole text."""
    rollout = facts.rollout
    lines = [
        f"### {_MARKS.get(rollout.phase, '▶️')} {text(words.headline(rollout))}",
        "",
        f"{text(rollout.reason, 3 * _TEXT_MAX)}.",
        "",
        *(f"- {text(one)}" for one in words.numbers_that_matter(facts)),
        "",
    ]
    if rows := _findings(facts):
        lines += _table(("Metric", "Verdict", "Stable", "Canary", "Effect, 95 % band", "Odds if healthy"), rows)
    decisions = facts.decisions[-_DECISIONS_MAX:]
    lines += [f"<details><summary>Decisions ({len(facts.decisions)})</summary>", ""]
    rows = [
        (
            one.at,
            f"{text(one.phase_before)} → {text(one.phase)}",
            f"{one.canary_percent:g} %",
            text(one.by),
            text(one.reason),
        )
        for one in decisions
    ]
    lines += _table(("When", "What", "Share", "By", "Why"), rows)
    lines += ["</details>", "", "<details><summary>What this rests on</summary>", ""]
    lines += [f"- {one}" for one in words.assumptions(facts)]
    lines += ["", "</details>", ""]
    lines.append(
        f"{text(rollout.stable or 'nothing')} → {text(rollout.canary)} on {text(rollout.route)},"
        f" rollout {text(rollout.id)}, {duration(facts.took_s)}."
    )
    return "\n".join(lines) + "\n"


def text(given: str, most: int = _TEXT_MAX) -> str:
    r"""Text from outside: what Markdown or HTML would read as something is written as a character reference.

    >>> text("<img src=x> @all [a](http://b)")
    '&#60;img src=x&#62; &#64;all &#91;a&#93;(http&#58;&#47;&#47;b)'
    """
    return _ACTIVE.sub(lambda found: "".join(f"&#{ord(char)};" for char in found[0]), clipped(given, most))


def _findings(facts: ReportFacts) -> list[tuple[str, ...]]:
    causes = facts.rollout.causes
    seen = [one for one in facts.findings if one.metric in causes or one.stable_events + one.canary_events]
    seen.sort(key=lambda one: (one.metric not in causes, not one.decides))
    return [
        (
            f"**{text(one.metric)}**" if one.metric in causes else text(one.metric),
            words.verdict_word(one, causes),
            _share(one.stable_events, one.stable_trials),
            _share(one.canary_events, one.canary_trials),
            words.effect_text(effect_of(one)),
            words.odds(one.log_e_bad),
        )
        for one in seen[:_FINDINGS_MAX]
    ]


def _share(events: int, trials: int) -> str:
    return f"{events:,} of {trials:,} ({percent(events / trials)})" if trials else "-"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
