"""The control plane: sees, decides, keeps, acts and shows.

Sees: observer, prober. Decides: controller. Keeps: journal, records. Acts: executor, hub.
Shows: views, events, metrics.
"""

from __future__ import annotations
