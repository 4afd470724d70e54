"""Failures in sampled answers as part of the findings, and when unread answers hold a PASS back.

Rules:

1. The finding of `model_errors` says which failures were found, with an example of each; so does the reason for a
   rollback that it causes. Examples are of this rollout, short, and of the version in question.
2. An answer that cannot be read counts against no version by itself (usual.py says when it does). But no canary passes
   on its readable answers alone: while its share of unread answers is more than `UNREAD_MARGIN` above stable's, PASS is
   held, and says why.
3. While the inspector is not connected, no canary passes where answers or labels decide: there is no new evidence.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.config.predictions import PREDICTED
from gateway.control.workers.inspector_link import Inspection
from gateway.core.analysis import Analysis, AnalysisSpec, Finding, Look, Verdict
from gateway.core.numbers import percent
from gateway.core.predictions.failures import KINDS, MODEL_ERRORS, UNREAD, UNREAD_ANSWERS
from gateway.core.predictions.settings import RouteWatch
from gateway.core.predictions.text_events import TEXT_METRICS
from gateway.core.types import Variant
from gateway.runtime.samples import AnswersRead

UNREAD_MARGIN = 0.1
_KINDS_OF = {MODEL_ERRORS: KINDS, UNREAD_ANSWERS: UNREAD}
WORDS = {
    "error": "an error in the answer",
    "overload": "an error in the answer that says overload",
    "client_error": "an error in the answer that blames the request",
    "broken_body": "a content coding that cannot be decoded, as stable's can",
    "invalid_json": "invalid JSON",
    "nan": "NaN or infinity in JSON",
    "no_results": "no results",
    "cut_stream": "a truncated stream",
    "no_events": "a stream without events",
    "unfinished": "a stream without its end mark",
    "page": "a web page or plain text instead of data",
    "other_form": "a different form from stable's answers",
    "unknown_coding": "an unknown content coding",
    "broken_coding": "a content coding that cannot be decoded",
    "too_large": "a body that is too large when decompressed",
}
"""What the inspector's kinds and reasons mean."""


def with_answers(inspection: Inspection, route: str, look: Look, spec: AnalysisSpec, first_epoch: int) -> Look:
    """The look with what was found in answers since ``first_epoch``, and without a PASS that they do not support."""
    watch = inspection.looked_at(route)
    if watch is None:
        return look
    seen = with_examples(look, inspection.answers(route), first_epoch)
    if seen.verdict is not Verdict.PASS:
        return seen
    reason = unread_hold(seen.analysis) if inspection.present else _absent_hold(watch, seen.analysis, spec)
    return Look.of(held(seen.analysis, reason)) if reason else seen


def _absent_hold(watch: RouteWatch, analysis: Analysis, spec: AnalysisSpec) -> str:
    """Why a PASS is held while the inspector is not connected (rule 3); "" when it is not."""
    labels = watch.labels.events if watch.labels is not None else {}
    labelled = any(f.decides and f.metric in labels for f in analysis.findings)
    # In mode auto they do not decide without data; but that there are none now is no proof that there are none.
    read = (*PREDICTED, *TEXT_METRICS, MODEL_ERRORS)
    if labelled or any(event.name in read and event.decides for event in spec.events):
        return "the inspector is not connected, so answers and labels are not counted"
    return ""


def with_examples(look: Look, answers: Sequence[AnswersRead] | None, first_epoch: int) -> Look:
    """The look, its findings with examples out of ``answers`` of epochs from ``first_epoch`` on (rule 1)."""
    if answers is None or not any(part.examples for part in answers):
        return look
    # They are read now: a later view of this verdict shows what it was based on.
    said = {metric: _examples(kinds, answers, first_epoch) for metric, kinds in _KINDS_OF.items()}
    blamed = said[MODEL_ERRORS] if MODEL_ERRORS in look.causes else ""

    def completed(found: Analysis) -> Analysis:
        findings = tuple(_with(finding, said.get(finding.metric, "")) for finding in found.findings)
        return msgspec.structs.replace(found, findings=findings)

    return look.adding(blamed, completed)


def unread_hold(analysis: Analysis) -> str:
    """Why a PASS is held for what cannot be read (rule 2); "" when it is not."""
    finding = next((one for one in analysis.findings if one.metric == UNREAD_ANSWERS), None)
    if finding is None or finding.canary_rate is None:
        return ""
    if finding.canary_rate - (finding.stable_rate or 0.0) <= UNREAD_MARGIN:
        return ""
    stable, canary = (percent(rate or 0.0) for rate in (finding.stable_rate, finding.canary_rate))
    return (
        f"{canary} of the canary's sampled answers cannot be read, against {stable} of stable's: the readable ones"
        " alone prove nothing, see the finding `unread`"
    )


def held(analysis: Analysis, reason: str) -> Analysis:
    """The analysis, undecided for this reason."""
    reason = f"{reason}; before that: {analysis.reason}"
    return msgspec.structs.replace(analysis, verdict=Verdict.UNDECIDED, reason=reason)


def _with(finding: Finding, said: str) -> Finding:
    return msgspec.structs.replace(finding, reason=finding.reason + said) if said else finding


def _examples(kinds: Sequence[str], answers: Sequence[AnswersRead], first_epoch: int) -> str:
    parts = []
    for variant in (Variant.CANARY, Variant.STABLE):
        examples = answers[variant].examples
        seen = [
            f"{WORDS[kind]} ({examples[kind].text})"
            for kind in kinds
            if kind in examples and examples[kind].epoch >= first_epoch
        ]
        if seen:
            parts.append(f"; {variant.label}: {', '.join(seen)}")
    return "".join(parts)
