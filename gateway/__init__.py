"""A canary serving gateway: two model versions behind one address, and a proof of which one to keep."""

__version__ = "0.1.0"
