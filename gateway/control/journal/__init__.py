"""Control's state on disk."""
