"""The control plane: sees, decides, keeps, acts and shows.

Sees: aggregator, prober (by probe), endpoint_health, readiness. Decides: controller (ticks and wishes), decisions (one
event, in the safe order), recovery (the first table), each over routes. Keeps: journal, behind scribe (the only one who
waits for the disk), and records. Acts: publisher, hub. Shows: views, events, alarms, metrics.
"""

from __future__ import annotations
