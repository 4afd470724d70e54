"""A rollout in sentences: the verdict, the numbers that matter, the odds. Both forms of the report say the same."""

from __future__ import annotations

import math

from gateway.control.views import RolloutView
from gateway.core.analysis.types import Finding
from gateway.core.numbers import about, duration, milliseconds, percent, points
from gateway.core.rollout.types import Phase
from gateway.report.facts import EffectBand, ReportFacts

_NAMED_MAX = 3
_ENDS = {
    Phase.PROMOTED: "was promoted",
    Phase.ROLLED_BACK: "was rolled back",
    Phase.WITHDRAWN: "was withdrawn",
    Phase.RETURNING: "is being rolled back",
    Phase.PAUSED: "is paused",
    Phase.WAITING: "is waiting",
    Phase.WARMING: "is warming up",
    Phase.BAKING: "is watched before its promotion is final",
}


def headline(rollout: RolloutView) -> str:
    """The verdict as one sentence."""
    what = _ENDS.get(Phase(rollout.phase), f"is at {rollout.canary_percent:g} %")
    causes = [name.replace("_", " ") for name in rollout.causes]
    more = len(causes) - _NAMED_MAX
    named = ", ".join(causes[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
    return f"{rollout.canary} {what} on {rollout.route}{f': {named}' if named else ''}"


def numbers_that_matter(facts: ReportFacts) -> list[str]:
    """At most three: what decided, how sure it is, and what it cost."""
    rollout, analysis = facts.rollout, facts.rollout.analysis
    said = []
    deciding = next((one for one in facts.findings if one.metric in rollout.causes), None)
    if deciding is not None and deciding.stable_rate is not None and deciding.canary_rate is not None:
        name = deciding.metric.replace("_", " ")
        said.append(f"{name}: canary {percent(deciding.canary_rate)}, stable {percent(deciding.stable_rate)}")
    if analysis is not None:
        said.append(f"odds that a healthy canary looks like this: {odds(analysis.log_e_bad)}")
    said.append(f"{rollout.canary_requests:,} canary requests in {duration(facts.took_s)}")
    return said


def odds(log_e: float | None) -> str:
    """Evidence as odds: a healthy canary's evidence ever reaches E with a chance of at most 1 in E (Ville).

    >>> odds(math.log(240)), odds(0.0), odds(50.0)
    ('1 in 240', 'nothing unusual', 'less than 1 in a trillion')
    """
    if log_e is None or math.isnan(log_e) or log_e <= 0.05:
        return "nothing unusual"
    ten = log_e / math.log(10.0)
    if ten >= 12.0:
        return "less than 1 in a trillion"
    for power, unit in ((9.0, " billion"), (6.0, " million")):
        if ten >= power:
            return f"1 in {10 ** (ten - power):.2g}{unit}"
    value = math.exp(log_e)
    return f"1 in {value:.2g}" if value < 10.0 else f"1 in {about(value - 0.5)}"


def effect_text(band: EffectBand | None) -> str:
    """An effect with its band."""
    if band is None:
        return "-"
    say = _latency if band.unit == "us" else _points
    ends = "" if math.isnan(band.low) or math.isnan(band.high) else f" ({say(band.low)} to {say(band.high)})"
    return f"{say(band.effect)}{ends}"


def _points(share: float) -> str:
    text = points(float(f"{share:.3g}"))
    return f"+{text}" if share > 0 else text


def _latency(us: float) -> str:
    return f"{'+' if us > 0 else ''}{milliseconds(float(f'{us:.3g}'))}"


def verdict_word(finding: Finding, causes: tuple[str, ...]) -> str:
    """One metric's verdict."""
    if finding.metric in causes:
        return "decided"
    words = {
        "PASS": "good enough",
        "FAIL": "worse",
        "UNDECIDED": "undecided",
        "NODATA": "no data",
        "ERROR": "cannot be judged",
    }
    return words[finding.verdict.value]


def assumptions(facts: ReportFacts) -> list[str]:
    """What the numbers rest on."""
    analysis = facts.rollout.analysis
    said = [
        "The gateway assigned requests at random, by the weights shown, and judged both versions over the same time.",
        (
            "The evidence is valid at every moment, however often somebody looks: the configuration bounds the"
            " probability that a canary that is not worse is ever rolled back."
        ),
    ]
    if analysis is not None and math.isfinite(analysis.log_e_bad_needed):
        said[1] += f" Here the bound is {percent(math.exp(-analysis.log_e_bad_needed))}."
    if analysis is not None and math.isfinite(analysis.log_e_ok_needed):
        said.append(
            "A canary that is worse by the margin of any one metric would have passed with a probability of at most"
            f" {percent(math.exp(-analysis.log_e_ok_needed))}."
        )
    said.append(
        "Bands hold the effect at all moments together with 95 % probability, if the rates are constant over the"
        " rollout; verdicts do not assume that."
    )
    if len(facts.series.at) < 2:
        said.append("The path of the evidence was not kept: the charts are drawn through the decisions.")
    return said
