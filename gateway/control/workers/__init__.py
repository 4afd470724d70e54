"""The conversation with the workers and the inspector."""
