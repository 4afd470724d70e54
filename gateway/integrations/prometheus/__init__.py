"""Prometheus as a source of counts: what two versions answered where this gateway does not serve them."""
