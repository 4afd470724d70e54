"""What exchanges read of their route."""
