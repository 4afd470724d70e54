"""Message heads: pure functions from bytes to values."""
