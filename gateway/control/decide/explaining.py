"""Intervals, quantiles and forecasts beside an analysis: they need scipy, so they come a little later.

Rules:

1. scipy takes a second to load, several on a busy machine. Neither the start of the control process nor a verdict waits
   for it: it is loaded on a thread when the first rollout begins.
2. Until it is there, analyses are shown without what it computes: verdicts, counts, evidence and reasons are complete.
3. If it cannot be loaded, that is logged once, and analyses stay so.
"""

from __future__ import annotations

import importlib
import logging
import threading

from gateway.core import analysis as core
from gateway.core.analysis import Analysis, AnalysisState

_log = logging.getLogger(__name__)
_MODULE = "gateway.core.analysis.show.explain"
_loaded = threading.Event()
_started = threading.Event()


def prepare() -> threading.Thread | None:
    """Begin to load what is needed, once; the thread that does so now."""
    if _started.is_set():
        return None
    _started.set()
    thread = threading.Thread(target=_load, name="load-scipy", daemon=True)
    thread.start()
    return thread


def explained(state: AnalysisState, analysis: Analysis, *, forecast: bool) -> Analysis:
    """The analysis with all that can be shown by now."""
    prepare()
    return core.explained(state, analysis, forecast=forecast) if _loaded.is_set() else analysis


def _load() -> None:
    try:
        importlib.import_module(_MODULE)
    except Exception:  # noqa: BLE001  # whatever is wrong with the library, decisions go on (rule 3)
        _log.exception("analyses are shown without intervals and forecasts: scipy cannot be loaded")
    else:
        _loaded.set()
