"""From cumulative evidence to what is new."""
