"""The metrics of sockets and processes: reloads, stalls of the event loop, pauses of accepting, certificates.

Workers count since their own birth, so a counter may start anew when one is replaced, as Prometheus expects of any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.metrics_core import Metric

from gateway.control.show.families import counter, counter_by, gauge_by, single_counter, single_gauge
from gateway.runtime import logs
from gateway.runtime.notices import Notice
from gateway.runtime.wire import Report

TABLE_SOURCES = ("journal", "memory", "workers", "configuration")


def state_metrics(source: str, *, kept: bool) -> Iterator[Metric]:
    """Whether what is decided is kept, and where the first table of this control process came from."""
    yield single_gauge("gateway_state_kept", "1 while decisions can be stored in the state directory.", kept)
    yield gauge_by(
        "gateway_table_source",
        "1 for the source that named the stable versions when this control process began.",
        "source",
        {one: one == source for one in TABLE_SOURCES},
    )


def process_metrics(reports: Sequence[Report], notice: Notice, notes: Mapping[str, int]) -> Iterator[Metric]:
    """One family each, from the newest report of each live worker and the supervisor's newest notice.

    ``notes`` are merged over the workers' lives.
    """
    yield counter_by(
        "gateway_config_reloads",
        "Reloads of the configuration on SIGHUP, by result.",
        "result",
        {"applied": notice.reloads_applied, "refused": notice.reloads_refused},
    )
    yield single_gauge(
        "gateway_config_last_reload_failed",
        "1 when the file could not be used at the last SIGHUP: the configuration before it is in force.",
        bool(notice.refused_why),
    )
    yield single_counter(
        "gateway_event_loop_stalls",
        "Times that an event loop was blocked for more than 0.25 s.",
        sum(report.stalls for report in reports),
    )
    yield single_counter(
        "gateway_accept_pauses",
        "Times that no client was accepted because file descriptors were short.",
        sum(report.accept_pauses for report in reports),
    )
    yield counter(
        "gateway_child_restarts",
        "Restarts of child processes, by reason: exited, or hung and killed.",
        ("child", "reason"),
        (
            ((child, reason), notice.restarts.get(child, {}).get(reason, 0))
            for child in ("control", "features", "inspector", "tracing", "worker")
            for reason in ("exit", "hang")
        ),
    )
    yield counter_by(
        "gateway_log_lines_dropped",
        "Log lines that were not written: standard error was not read, or could not be written, by process.",
        "process",
        {"control": logs.dropped(), "worker": notes.get("process_log_dropped", 0)},
    )
    ends_s = [report.tls_not_after_s for report in reports if report.tls_not_after_s]
    yield single_gauge(
        "gateway_tls_certificate_not_after_seconds",
        "When the first of the certificates for clients ends, in seconds since the Unix epoch.",
        min(ends_s, default=None),
    )
