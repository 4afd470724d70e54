"""The names of the files in the state directory, for modules that must not import what reads them."""

from __future__ import annotations

STORE = "state.sqlite3"
# The files of pre-releases, none of which is read.
PRERELEASE = ("journal.sqlite3", "config.json", "config.last-good.json", "audit.jsonl", "idempotency.jsonl")
