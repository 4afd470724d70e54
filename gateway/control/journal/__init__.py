"""Control's state on disk, and taking over from it."""
