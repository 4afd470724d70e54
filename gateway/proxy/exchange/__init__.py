"""One request: its attempts, its body, its outcome."""
