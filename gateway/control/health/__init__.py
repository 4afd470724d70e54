"""The health of endpoints: probes, and what workers report."""
