"""A canary serving gateway: two model versions behind one address, and a proof of which one to keep."""

from __future__ import annotations

__version__ = "0.1.0"
