"""An epoch stays until its counts are final and control has them; settings may change under way."""

from __future__ import annotations

from gateway.core.predictions.events import WatchSettings
from gateway.core.predictions.labels import LabelSettings
from gateway.core.predictions.settings import RouteWatch
from gateway.core.stats.counts import check
from gateway.inspector.aggregator import Aggregator
from gateway.runtime.samples import AnswerPair, Label, PairedAnswer, Sample, Served

LABELS = RouteWatch(labels=LabelSettings({"click": True}, window_s=60.0))
ANSWERS = RouteWatch(watch=WatchSettings())


def aggregator(watch: RouteWatch) -> Aggregator:
    made = Aggregator("boot", lambda: 0.5)
    made.watch({"r": watch})
    return made


def sample(epoch: int, body: bytes = b'{"outputs": []}', route: str = "r", variant: int = 0) -> Sample:
    return Sample(route, epoch, 500, variant, body, "application/json", "", "")


def epochs(made: Aggregator, now_s: float) -> list[int]:
    """What is reported now, and taken in by control."""
    report = made.report(now_s).report
    made.confirm(report.seq)
    return [entry.epoch for entry in report.evidence]


def test_an_epoch_stays_while_a_request_of_it_may_be_labelled() -> None:
    made = aggregator(LABELS)
    made.served(Served("r", 1, 500, 1, "a"), 0.0)
    made.served(Served("r", 2, 500, 0, "b"), 30.0)
    made.expire(59.0)
    assert epochs(made, 59.0) == [1, 2]
    made.label("r", Label("a", "click", True), 59.5)
    made.expire(61.0)
    report = made.report(61.0).report
    first = report.evidence[0]
    assert (first.epoch, first.canary.trials, first.canary.events) == (1, {"click": 1}, {"click": 1})
    assert epochs(made, 61.5) == [1, 2], "its final counts were not acknowledged before"
    assert epochs(made, 62.0) == [2]


def test_a_label_with_a_number_is_a_value_on_its_grid_once_its_window_is_over() -> None:
    made = aggregator(RouteWatch(labels=LabelSettings({"score": False}, window_s=10.0, bounds={"score": (1.0, 5.0)})))
    for n, (variant, value) in enumerate(((0, 4.0), (0, 5.0), (1, 1.03), (1, 99.0), (1, None))):
        made.served(Served("r", 1, 500, variant, str(n)), 0.0)
        if value is not None:
            made.label("r", Label(str(n), "score", value), 1.0)
    assert made.report(9.0).report.evidence[0].canary.values == {}
    made.expire(11.0)
    entry = made.report(11.0).report.evidence[0]
    assert entry.stable.values == {"score": {48: 1, 64: 1}}
    # 0.48 of a step above the first point, and the coin of this test is 0.5: down.
    assert entry.canary.values == {"score": {0: 1, 64: 1}} and entry.canary.trials == {}
    check(entry.canary)


def test_what_control_has_not_acknowledged_is_sent_again() -> None:
    made = aggregator(ANSWERS)
    made.take(sample(1), 0.0)
    made.take(sample(2), 0.0)
    for now_s in (20.0, 40.0, 60.0):
        assert [entry.epoch for entry in made.report(now_s).report.evidence] == [1, 2]
    made.take(sample(1), 61.0)
    assert epochs(made, 61.0) == [1, 2] and epochs(made, 61.1) == [1, 2], "a straggler came, so it is not final"
    assert epochs(made, 80.0) == [1, 2] and epochs(made, 80.1) == [2]


def test_counts_are_true_and_only_of_watched_routes() -> None:
    made = aggregator(ANSWERS)
    for body in (b"", b"{}", b'{"outputs": []}', b"\xff"):
        made.take(sample(1, body, variant=1), 0.0)
        made.take(sample(1, body, route="other"), 0.0)
    made.served(Served("r", 1, 500, 0, "a"), 0.0)
    made.label("r", Label("a", "click", True), 0.0)
    inspected = made.report(0.0)
    (entry,) = inspected.report.evidence
    check(entry.canary)
    assert (entry.route, entry.weight_bp, entry.canary.trials["nan"]) == ("r", 500, 4)
    assert entry.canary.events == {"unreadable": 3, "empty": 1}
    assert inspected.results == {"r": {"decoded": 1, "unreadable": 3, "nan": 0, "empty": 1, "skipped": 0}}


def test_the_same_settings_again_change_nothing_and_others_begin_anew() -> None:
    made = aggregator(LABELS)
    made.served(Served("r", 1, 500, 0, "a"), 0.0)
    made.watch({"r": RouteWatch(labels=LabelSettings({"click": True}, window_s=60.0))})
    made.expire(61.0)
    assert made.report(61.0).report.evidence[0].stable.trials == {"click": 1}
    made.served(Served("r", 1, 500, 0, "b"), 70.0)
    made.watch({"r": RouteWatch(labels=LabelSettings({"click": True}, window_s=5.0))})
    made.expire(200.0)
    assert made.report(200.0).report.evidence[0].stable.trials == {"click": 1}, "the open request was given up"


def test_pairs_of_answers_are_compared_and_counted_for_verdicts_and_metrics() -> None:
    made = aggregator(ANSWERS)

    def said(data: str) -> PairedAnswer:
        body = f'{{"outputs":[{{"name":"label","datatype":"INT64","shape":[1],"data":[{data}]}}]}}'
        return PairedAnswer(body.encode(), "application/json", "", "")

    broken, unknown = PairedAnswer(b"<html>", "text/html", "", ""), PairedAnswer(b"x", "application/json", "lzma", "")
    for stable, canary in ((said("3"), said("3")), (said("3"), said("4")), (said("3"), broken), (unknown, said("3"))):
        made.take_pair(AnswerPair("r", 7, 0, "/v2/models/r/infer", 0.001, stable, canary), 0.0)
    made.take_pair(AnswerPair("another", 7, 0, "/", 0.001, said("3"), said("3")), 0.0)
    report = made.report(0.0).report
    counted = {"compared": 3, "disagreed": 2, "unread": 1}
    assert [(entry.route, entry.epoch, entry.pairs) for entry in report.evidence] == [("r", 7, counted)]
    assert [(totals.route, totals.mirror_pairs) for totals in report.totals] == [("r", counted)]
