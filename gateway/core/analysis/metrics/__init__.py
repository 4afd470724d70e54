"""The kinds of metrics: what each takes from the evidence, and what it finds."""
