"""The control plane: sees, decides, keeps, acts and shows.

Sees: observer, prober. Decides: controller (ticks, wishes), decisions (one event, in the safe order), recovery (the
first table). Keeps: journal behind scribe (the only one who waits for the disk), records. Acts: executor, hub. Warns: alarms.
Shows: views, events, metrics.
"""

from __future__ import annotations
