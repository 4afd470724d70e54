"""The names of the files in the state directory, for whoever must not import what reads them."""

from __future__ import annotations

STORE = "state.sqlite3"
# What pre-releases kept beside each other. Nothing of it is read.
PRERELEASE = ("journal.sqlite3", "config.json", "config.last-good.json", "audit.jsonl", "idempotency.jsonl")
