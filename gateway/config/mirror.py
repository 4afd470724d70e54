"""The section ``routes[].mirror``: copies of stable's requests for the canary, and what they may take."""

from __future__ import annotations

from typing import Annotated, Any

from gateway.config.section import Bytes, Count, Percentage, Seconds, Section, Share
from gateway.config.shape import Doc
from gateway.core.traffic.table import Mirroring
from gateway.core.types import percent_from_weight_bp, weight_bp_from_percent

_MIRROR = Mirroring()


class MirrorConfig(Section):
    """Copies of stable's requests for the canary: how many, and what they may take of each worker."""

    core = Mirroring

    percent: Annotated[
        Percentage,
        Doc(
            "Share of stable's requests that are copied to the canary, with or without a rollout; its answers are "
            "thrown away. The limits below hold for the mirror step of a plan as well."
        ),
    ] = percent_from_weight_bp(_MIRROR.share_bp)
    concurrency_max: Annotated[Count, Doc("Copies under way at once.")] = _MIRROR.concurrency_max
    body_bytes_max: Annotated[Bytes, Doc("Maximum size of a request's body; larger ones are not copied.")] = (
        _MIRROR.body_bytes_max
    )
    answer_bytes_max: Annotated[
        Bytes, Doc("How much of the canary's answer is read; then the connection is closed.")
    ] = _MIRROR.answer_bytes_max
    memory_bytes_max: Annotated[Bytes, Doc("What all copies together may hold in memory.")] = _MIRROR.memory_bytes_max
    timeout_s: Annotated[
        Seconds,
        Doc(
            "Maximum time of a copy. It has failed then if stable took no more than half of that; the route's "
            "`timeouts` for connecting, the first byte and pauses hold as well."
        ),
    ] = _MIRROR.timeout_s
    loop_lag_max_s: Annotated[
        Seconds, Doc("Maximum lateness of a worker's event loop; a worker that is later makes no copies.")
    ] = _MIRROR.loop_lag_max_s

    outputs: Annotated[
        bool,
        Doc(
            "Compare what both versions answer, of 50 pairs a second of each worker: classes, scores and short labels."
        ),
    ] = _MIRROR.outputs
    number_tolerance: Annotated[Share, Doc("Numbers are equal that differ by no more than this share of stable's.")] = (
        _MIRROR.number_tolerance
    )

    def to_core(self) -> dict[str, Any]:
        """Percent are basis points."""
        return {"share_bp": weight_bp_from_percent(self.percent)}
