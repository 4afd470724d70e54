"""The answers of an analysis, by name: apart from the analysis, so that clients have them without its numerics."""

from __future__ import annotations

import enum


class Verdict(enum.StrEnum):
    """One metric's answer, or the whole one. Only PASS advances, only FAIL rolls back, the rest hold."""

    PASS = "PASS"
    UNDECIDED = "UNDECIDED"
    NODATA = "NODATA"
    ERROR = "ERROR"
    FAIL = "FAIL"
